"""The native solver of cone programs: optimality on every cone, certificates, and samples that are strangers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from optlayers import Cones, Status
from optlayers._native import available

pytestmark = pytest.mark.skipif(not available(), reason="needs the compiled core")

BATCH = 11  # more than lanes, and not a multiple of them

# name: variables, cones, whether there is a quadratic term
FAMILIES = {
    "linear": (5, Cones(zero=1, nonneg=12), False),
    "quadratic": (8, Cones(zero=2, nonneg=12), True),
    "second_order": (8, Cones(zero=1, second_order=(3, 1, 5, 2)), True),
    "large_second_order": (12, Cones(nonneg=3, second_order=(20, 9)), False),
    "psd": (6, Cones(psd=(2, 5, 1)), True),
    "exponential": (6, Cones(zero=1, exponential=4), True),
    "linear_exponential": (6, Cones(exponential=6), False),
    "power": (6, Cones(power=(0.3, 0.5, 0.95)), True),
    "mixed": (10, Cones(zero=2, nonneg=3, second_order=(3, 10), psd=(3,), exponential=2, power=(0.4,)), True),
}


def interior(cones: Cones, random: np.random.Generator, dual: bool) -> np.ndarray:
    """A point inside the cones, or inside their duals."""
    parts = [random.normal(size=cones.zero) * dual, random.uniform(0.1, 1, cones.nonneg)]
    for d in cones.second_order:
        tail = random.normal(size=d - 1)
        parts += [[np.linalg.norm(tail) + random.uniform(0.1, 1)], tail]
    for k in cones.psd:
        factor = random.normal(size=(k, k))
        matrix = factor @ factor.T / k + 0.1 * np.eye(k)
        parts += [[matrix[i, j] * (1 if i == j else math.sqrt(2)) for i in range(j + 1)] for j in range(k)]
    for _ in range(cones.exponential):
        y, x, room = random.uniform(0.3, 2), random.normal(), random.uniform(0.1, 1)
        parts.append([-y, x, y * math.exp(-x / y - 1) + room] if dual else [x, y, y * math.exp(x / y) + room])
    for a in cones.power:
        (x, y), share = random.uniform(0.3, 2, 2), random.uniform(-0.9, 0.9)
        unit = a**-a * (1 - a) ** (a - 1) if dual else 1
        parts.append([x, y, share * unit * x**a * y ** (1 - a)])
    return np.concatenate(parts)


class Programs:
    """A batch of strictly feasible programs with a dense A; `fate` makes them infeasible or unbounded."""

    def __init__(self, name: str, fate: Status = Status.SOLVED, batch: int = BATCH, seed: int = 0):
        self.n, self.cones, self.quadratic = FAMILIES[name]
        random = np.random.default_rng(seed)
        n, m = self.n, self.cones.rows
        A, factor = random.normal(size=(batch, m, n)), random.normal(size=(batch, n, n))
        self.quadratic = self.quadratic and fate == Status.SOLVED
        P = (
            np.einsum("bij,bkj->bik", factor, factor) / n + 0.1 * np.eye(n)
            if self.quadratic
            else np.zeros((batch, n, n))
        )
        x = random.normal(size=(batch, n))
        s, z = (np.stack([interior(self.cones, random, dual) for _ in range(batch)]) for dual in (False, True))
        if fate == Status.PRIMAL_INFEASIBLE:  # A'z = 0, b'z = -1
            A -= z[..., None] * np.einsum("bi,bij->bj", z, A)[:, None] / (z * z).sum(-1)[:, None, None]
        if fate == Status.DUAL_INFEASIBLE:  # Ax + s = 0, q'x = -1
            A -= (s + np.einsum("bij,bj->bi", A, x))[..., None] * x[:, None] / (x * x).sum(-1)[:, None, None]
        b = np.einsum("bij,bj->bi", A, x) + s
        q = -np.einsum("bij,bj->bi", P, x) - np.einsum("bij,bi->bj", A, z)
        if fate == Status.PRIMAL_INFEASIBLE:
            b -= z * ((b * z).sum(-1, keepdims=True) + 1) / (z * z).sum(-1, keepdims=True)
        if fate == Status.DUAL_INFEASIBLE:
            q -= x * ((q * x).sum(-1, keepdims=True) + 1) / (x * x).sum(-1, keepdims=True)
        self.P, self.q, self.A, self.b = (torch.from_numpy(array) for array in (P, q, A, b))

    def solve(self, P=None, q=None, A=None, b=None, eps=1e-8, max_steps=200):
        from optlayers._native.cone_ops import cone_plan, cone_solve

        cones, n = self.cones, self.n
        on_P = np.indices((n, n)).reshape(2, -1) if self.quadratic else np.zeros((2, 0), int)
        on_A = np.indices((cones.rows, n)).reshape(2, -1)
        rest = cones.nonneg, cones.second_order, cones.psd, cones.exponential, len(cones.power)
        plan = cone_plan(n, tuple(on_P), tuple(on_A), cones.zero, *rest)
        P, q, A, b = (own if given is None else given for own, given in zip(self.data, (P, q, A, b), strict=True))
        P = P.flatten(1) if self.quadratic else P.flatten(1)[:, :0]
        return cone_solve(plan, torch.tensor(cones.power, dtype=q.dtype), P, q, A.flatten(1), b, eps, max_steps)

    @property
    def data(self):
        return self.P, self.q, self.A, self.b

    def residuals(self, found):
        """Largest violation of Ax + s = b and of Px + q + A'z = 0, and the gap s'z over 1 + |q'x|, of each sample."""
        P, q, A, b = self.data
        primal = (A @ found.x[..., None])[..., 0] + found.s - b
        dual = (P @ found.x[..., None])[..., 0] + q + (A.mT @ found.z[..., None])[..., 0]
        return (
            primal.abs().amax(-1),
            dual.abs().amax(-1),
            (found.s * found.z).sum(-1).abs() / (1 + (q * found.x).sum(-1).abs()),
        )


def in_cones(v: torch.Tensor, cones: Cones, dual: bool) -> bool:
    """Whether each of the points v is in the cones, or in their duals, up to rounding."""
    from optlayers import projection

    kinds = ["zero", "nonneg", "second_order", "psd", "exponential", "power"]
    starts = dict(zip(kinds, cones.starts, strict=False))
    v = v / v.abs().amax(-1, keepdim=True).clamp(min=1)
    off = [v[:, : 0 if dual else cones.zero]]
    row = starts["nonneg"]
    off.append(v[:, row : row + cones.nonneg].clamp(max=0))
    row = starts["second_order"]
    for d in cones.second_order:
        off.append(v[:, row : row + d] - projection.second_order(v[:, row : row + d]))
        row += d
    for k in cones.psd:
        i, j = np.tril_indices(k)
        matrix = v.new_zeros(len(v), k, k)
        scale = torch.from_numpy(np.where(i == j, 1, math.sqrt(0.5)))
        matrix[:, i, j] = matrix[:, j, i] = v[:, row : row + len(i)] * scale
        off.append(torch.linalg.eigvalsh(matrix).clamp(max=0))
        row += len(i)
    triples = [projection.exponential] * cones.exponential
    triples += [lambda x, a=a: projection.power(x, a) for a in cones.power]
    for project in triples:
        t = v[:, row : row + 3]
        off.append(project(-t) if dual else t - project(t))  # Moreau: -t projects to 0 where t is in the dual
        row += 3
    return max(float(part.abs().max()) for part in off if part.numel()) < 1e-7


@pytest.mark.parametrize("name", FAMILIES)
def test_points_are_optimal(name):
    programs = Programs(name)
    found = programs.solve()
    assert found.status.tolist() == [Status.SOLVED] * BATCH
    assert max(float(part.max()) for part in programs.residuals(found)) < 1e-6
    assert in_cones(found.s, programs.cones, dual=False) and in_cones(found.z, programs.cones, dual=True)
    assert int(found.iterations.max()) < 60


@pytest.mark.parametrize("name", FAMILIES)
def test_infeasible_programs_are_certified(name):
    programs = Programs(name, Status.PRIMAL_INFEASIBLE)
    found = programs.solve()
    assert found.status.tolist() == [Status.PRIMAL_INFEASIBLE] * BATCH
    assert (programs.A.mT @ found.z[..., None]).abs().max() < 1e-6
    torch.testing.assert_close((programs.b * found.z).sum(-1), torch.full((BATCH,), -1.0).double(), atol=1e-5, rtol=0)
    assert in_cones(found.z, programs.cones, dual=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_unbounded_programs_are_certified(name):
    programs = Programs(name, Status.DUAL_INFEASIBLE)
    found = programs.solve()
    assert found.status.tolist() == [Status.DUAL_INFEASIBLE] * BATCH
    torch.testing.assert_close((programs.q * found.x).sum(-1), torch.full((BATCH,), -1.0).double(), atol=1e-5, rtol=0)
    ray = -(programs.A @ found.x[..., None])[..., 0]
    assert (ray - found.s).abs().max() < 1e-6 and in_cones(found.s, programs.cones, dual=False)


@pytest.mark.parametrize("name", ["quadratic", "mixed"])
def test_samples_are_strangers(name):
    programs = Programs(name)
    alone = programs.solve()
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    shuffled = programs.solve(*(t[order] for t in programs.data))
    assert all(torch.equal(a[order], b) for a, b in zip(alone, shuffled, strict=True))
    q, b = programs.q.clone(), programs.b.clone()
    q[2], b[5] = math.nan, math.inf
    broken = programs.solve(q=q, b=b)
    others = [i for i in range(BATCH) if i not in (2, 5)]
    assert all(torch.equal(x[others], y[others]) for x, y in zip(alone, broken, strict=True))
    assert broken.status[[2, 5]].tolist() == [Status.INVALID_INPUT] * 2 and broken.x[[2, 5]].isnan().all()


def test_shared_data_one_sample_and_none():
    programs = Programs("second_order")
    P, q, A, b = programs.data
    shared = programs.solve(P[:1], q, A[:1], b[:1])
    copies = programs.solve(*(t[:1].expand(t.shape) for t in (P,)), q, A[:1].expand(A.shape), b[:1].expand(b.shape))
    assert all(torch.equal(x, y) for x, y in zip(shared, copies, strict=True))
    one = programs.solve(P[:1], q[3:4], A[:1], b[:1])
    torch.testing.assert_close(one.x[0], shared.x[3], atol=1e-4, rtol=0)
    none = programs.solve(*(t[:0] for t in programs.data))
    assert none.x.shape == (0, 8) and none.status.shape == (0,)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_badly_scaled_rows(scale):
    programs = Programs("quadratic")
    expected = programs.solve().x
    programs.A[:, ::3] *= scale
    programs.b[:, ::3] *= scale
    found = programs.solve()
    assert found.status.tolist() == [Status.SOLVED] * BATCH
    torch.testing.assert_close(found.x, expected, atol=1e-5, rtol=1e-5)


def test_degenerate_rows_and_few_steps():
    programs = Programs("linear")
    A, b = programs.A.clone(), programs.b.clone()
    A[:, 1:5], b[:, 1:5] = A[:, 5:9], b[:, 5:9]  # rows given twice
    found = programs.solve(A=A, b=b)
    assert all(status in (Status.SOLVED, Status.DUAL_INFEASIBLE) for status in found.status.tolist())
    assert programs.solve(max_steps=2).status.tolist() == [Status.MAX_STEPS] * BATCH
