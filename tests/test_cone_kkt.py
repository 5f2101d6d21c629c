"""The compiled refinement and derivative of cone programs against those in torch; the order of the sparse LDL."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu

import optlayers as ol
from optlayers._base.pattern import Pattern
from optlayers._native import available
from optlayers.functional.cone_blocks import project
from optlayers.functional.cone_data import Full, Structure
from optlayers.functional.cone_point import refined_point
from optlayers.functional.cone_rule import ConeRule, solve_system
from optlayers.implicit.rule import reverse

pytestmark = pytest.mark.skipif(not available("cpu"), reason="needs the compiled kernels")
F64 = torch.float64
CONES = {
    "none": ol.Cones(),
    "zero": ol.Cones(zero=3),
    "nonneg": ol.Cones(nonneg=6),
    "second_order": ol.Cones(second_order=(4, 1, 3, 2, 9)),
    "psd": ol.Cones(psd=(3, 1, 2, 5)),
    "exponential": ol.Cones(exponential=3),
    "power": ol.Cones(power=(0.3, 0.6, 0.5)),
    "mixed": ol.Cones(zero=2, nonneg=3, second_order=(3, 5), psd=(2, 3), exponential=2, power=(0.4,)),
}
each_cone = pytest.mark.parametrize("cones", CONES.values(), ids=CONES)
each_batch = pytest.mark.parametrize("batch", [1, 2, 11])


def structure_of(cones, n, density):
    """Dense patterns, or sparse ones in no order, with entries given twice."""
    m = cones.rows
    if density == 1:
        return Structure(cones, Full((n, n)), Full((m, n)))
    random = np.random.default_rng(5)

    def pattern(shape):
        rows, cols = ((random.random(shape) < density) | (np.eye(*shape) * (shape[0] == n) > 0)).nonzero()
        again = random.permutation(len(rows))[: len(rows) // 4]
        return Pattern(np.r_[rows, rows[again]], np.r_[cols, cols[again]], shape)

    return Structure(cones, pattern((n, n)), pattern((m, n)))


def plain(structure):
    """The same, for the path in torch."""
    other = Structure(structure.cones, structure.on_P, structure.on_A)
    other.__dict__["kkt"] = None
    return other


def program(structure, batch, shared=False):
    """Values of programs, and their solutions ``x, s, z``."""
    m, n = structure.on_A.shape
    on_P, on_A = structure.on_P, structure.on_A
    v = torch.randn(batch, m, dtype=F64)
    s = project(structure.cones, v)
    x, A = torch.randn(batch, n, dtype=F64), torch.randn(1 if shared else batch, len(on_A.rows), dtype=F64)
    P = torch.zeros(len(A), len(on_P.rows), dtype=F64)
    own = torch.from_numpy((on_P.rows == on_P.cols).astype(float))
    P = P + own * (1 + torch.rand(P.shape, dtype=F64)) + 0.01 * torch.randn(P.shape, dtype=F64)
    half = 0.5 * (on_P.mv(P, x) + on_P.transposed().mv(P, x))
    return [P, -half - on_A.transposed().mv(A, s - v), A, on_A.mv(A, x) + s], (x, s, s - v)


def relative(got, want):
    return ((got - want).abs().max() / want.abs().max().clamp(min=1e-9)).item() if want.numel() else 0.0


@each_cone
@each_batch
@pytest.mark.parametrize("density", [0.3, 1])
def test_refinement_is_that_in_torch(cones, batch, density):
    structure = structure_of(cones, cones.rows + 2, density)
    data, exact = program(structure, batch, shared=batch == 2)
    start = [part + 1e-6 * torch.randn_like(part) for part in exact]
    got, want = (refined_point(which, data, *start) for which in (structure, plain(structure)))
    assert got.residuals.max() < 1e-12
    torch.testing.assert_close(got.s, exact[1], rtol=1e-8, atol=1e-8)
    end = want.residuals.amax(-1) < 1e-12  # a step more or less, where the first is a long one
    assert end.sum() > 0.8 * batch
    for part in ("s", "z", "w"):
        assert relative(getattr(got, part)[end], getattr(want, part)[end]) < (1e-6 if part == "w" else 1e-9)


@each_cone
@each_batch
@pytest.mark.parametrize("density", [0.3, 1])
@pytest.mark.parametrize("transpose", [False, True])
def test_linear_system_is_that_in_torch(cones, batch, density, transpose):
    structure = structure_of(cones, cones.rows + 2, density)
    (P, _, A, _), (x, s, z) = program(structure, batch, shared=batch == 2)
    w = torch.full_like(s, 0.7)
    right = [torch.randn_like(part) for part in (x, s, s, s)]
    at = P, A, w * s - z / w, w, right, transpose
    (got, error), (want, other) = (solve_system(which, *at) for which in (structure, plain(structure)))
    well = (error < 1e-10) & (other < 1e-10)  # a sparse random system may be singular: elsewhere it is compared with
    assert well.all() or density < 1
    for a, b in zip(got, want, strict=True):
        assert relative(a[well], b[well]) < 1e-6 if density < 1 else relative(a, b) < 1e-9


@each_cone
@pytest.mark.parametrize("shared", [False, True])
def test_plain_backward_is_the_generic_rule(cones, shared):
    structure = structure_of(cones, cones.rows + 2, 1)
    data, (x, s, z) = program(structure, 5, shared)
    rule, point = ConeRule(structure), [x, s - z, s, z]
    args = [*data, torch.ones_like(s)]
    cotangent = [torch.randn_like(x), None, torch.randn_like(s), torch.randn_like(s)]
    needed = [True] * 4 + [False]
    got = rule.vjp(point, args, cotangent, needed)
    assert got is not None and got[4] is None
    got = [grad for grad in got if grad is not None]
    filled = [torch.zeros_like(s) if part is None else part for part in cotangent]
    for a, b in zip(got, reverse(rule, point, args, filled, needed)[:4], strict=True):
        assert b is not None and a.shape == b.shape and relative(a, b) < 1e-10
    assert rule.vjp(point, args, cotangent, [False] * 5) == [None] * 5


def test_samples_are_strangers():
    """What a sample becomes does not depend on what is beside it, NaN and singular systems included."""
    cones = CONES["mixed"]
    structure = structure_of(cones, cones.rows + 2, 1)
    data, exact = program(structure, 7)
    start = [part + 1e-6 * torch.randn_like(part) for part in exact]
    whole = refined_point(structure, data, *start)
    data[2][3], start[0][5] = 0.0, math.nan
    beside = refined_point(structure, data, *start)
    for sample in (0, 1, 2, 4, 6):
        alone = refined_point(structure, [part[[sample]] for part in data], *(part[[sample]] for part in start))
        for a, b, c in zip(whole, beside, alone, strict=True):
            torch.testing.assert_close(a[sample], b[sample], rtol=0, atol=0)
            torch.testing.assert_close(a[sample], c[0], rtol=1e-9, atol=1e-11)
    assert not beside.residuals[5].isfinite().all()


@pytest.mark.parametrize("density", [0.3, 1])
def test_validity(density):
    structure = structure_of(ol.Cones(nonneg=4), 6, density)
    data, _ = program(structure, 5)
    kkt = structure.kkt
    assert kkt is not None and kkt.valid(data).tolist() == [True] * 5
    data[0][1] = -data[0][1]
    data[2][3, 0], data[3][4, 1] = math.nan, math.inf
    assert kkt.valid(data).tolist() == [True, False, True, False, False]
    singular = torch.ones(1, 36, dtype=F64) if density == 1 else torch.zeros_like(data[0][:1])
    assert kkt.valid([singular, *(part[:1] for part in data[1:])]).tolist() == [True]


@pytest.mark.parametrize("kind", ["random", "grid", "arrow", "dense"])
def test_order_fills_little(kind):
    """The factor has few more entries than that of SuperLU's minimum degree order."""
    n = 300
    random = np.random.default_rng(2)
    if kind == "grid":
        line = sp.csr_array(np.eye(20, k=1) + np.eye(20, k=-1))
        matrix = sp.kron(line, sp.eye_array(20)) + sp.kron(sp.eye_array(20), line)
        n = 400
    elif kind == "random":
        matrix = sp.random_array((n, n), density=0.01, rng=random)
    else:
        matrix = sp.lil_array((n, n))
        matrix[0] = 1.0
        if kind == "dense":
            matrix[:, :] = 1.0
    matrix = sp.csc_array(abs(matrix) + abs(matrix).T + 100 * n * sp.eye_array(n))
    on_P = sp.coo_array(matrix)
    kkt = Structure(ol.Cones(), Pattern(on_P.row, on_P.col, (n, n)), Full((0, n))).kkt
    assert kkt is not None
    stored = int(kkt.plan_of_P[3])  # LdlPlan::Sizes::values
    L = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).L
    assert stored < 1.6 * L.nnz + 10 * n
