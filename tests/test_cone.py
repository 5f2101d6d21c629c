"""solve_cone: known answers for every cone, derivatives, degenerate, infeasible and malformed programs."""

import math

import pytest
import torch

import optlayers as ol
from optlayers.functional.cone_blocks import project

pytest.importorskip("clarabel")  # an optional dependency
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]
F64 = torch.float64
CONES = {
    "zero": ol.Cones(zero=3),
    "nonneg": ol.Cones(nonneg=5),
    "second_order": ol.Cones(second_order=(4, 2, 4, 1)),
    "psd": ol.Cones(psd=(3, 2)),
    "exponential": ol.Cones(exponential=2),
    "power": ol.Cones(power=(0.3, 0.6)),
    "mixed": ol.Cones(zero=1, nonneg=2, second_order=(3,), psd=(2,), exponential=1, power=(0.4,)),
}
each_cone = pytest.mark.parametrize("cones", CONES.values(), ids=CONES)


def random_cone_program(cones, batch=(), n=None, strength=0.5):
    """Data whose solution ``(x, s, z)`` is known: a projection and what it leaves are a slack and a multiplier."""
    m = cones.rows
    n = n or m + 1
    v = torch.randn(*batch, m, dtype=F64)
    s = project(cones, v.reshape(-1, m)).reshape(v.shape)
    x, A = torch.randn(*batch, n, dtype=F64), torch.randn(*batch, m, n, dtype=F64) / math.sqrt(n)
    root = torch.randn(*batch, n, n, dtype=F64)
    P = strength * root @ root.mT / n
    P = P + 0.1 * strength * torch.eye(n, dtype=F64)
    z = s - v
    return (P, -mv(P, x) - mv(A.mT, z), A, mv(A, x) + s), (x, s, z)


def mv(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


def outputs(solution):
    return solution.x, solution.s, solution.z


@each_cone
@pytest.mark.parametrize("batch", [(), (1,), (2, 3)], ids=str)
def test_recovers_a_known_solution(cones, batch):
    data, expected = random_cone_program(cones, batch)
    solution = ol.solve_cone(*data, cones)
    for got, want in zip(outputs(solution), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert solution.status.shape == solution.iterations.shape == torch.Size(batch)
    assert solution.residuals.shape == (*batch, 2) and solution.residuals.max() < 1e-12


@each_cone
def test_scs_ends_at_the_same_point(cones):
    pytest.importorskip("scs")
    data, expected = random_cone_program(cones, (2,))
    for got, want in zip(outputs(ol.solve_cone(*data, cones, solver=ol.SCS())), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
