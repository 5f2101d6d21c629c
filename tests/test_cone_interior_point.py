"""ConeInteriorPoint: its scalings and barriers, known answers, Clarabel's, certificates; kernel and torch agree."""

import math

import pytest
import torch

import optlayers as ol
from optlayers._native import available
from optlayers._native.reference_cone_curved import Exponential, Power
from optlayers._native.reference_cone_symmetric import SecondOrder, Semidefinite
from optlayers.functional.cone_blocks import groups, interior, project
from optlayers.functional.cone_data import cone_data
from optlayers.solvers.cone_interior_point import by_kernel, by_torch
from optlayers.solvers.conic import ConeProgram

F64 = torch.float64
CONES = {
    "zero": ol.Cones(zero=3),
    "nonneg": ol.Cones(nonneg=6),
    "second_order": ol.Cones(second_order=(4, 2, 4, 1)),
    "psd": ol.Cones(psd=(3, 1, 2)),
    "exponential": ol.Cones(exponential=3),
    "power": ol.Cones(power=(0.3, 0.6, 0.95)),
    "mixed": ol.Cones(zero=2, nonneg=3, second_order=(3, 8), psd=(2, 3), exponential=2, power=(0.4, 0.01)),
}
each_cone = pytest.mark.parametrize("cones", CONES.values(), ids=CONES)


def mv(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


# -- cones ----------------------------------------------------------------------------------------------------------

CURVED = [
    Exponential(torch.arange(6).reshape(2, 3)),
    Power(torch.arange(6).reshape(2, 3), torch.tensor([0.3, 0.9]).to(F64)),
]
SYMMETRIC = [SecondOrder(torch.arange(8).reshape(2, 4)), Semidefinite(torch.arange(12).reshape(2, 6))]
names = lambda cone: type(cone).__name__.lower()  # noqa: E731


def inside(cone, count=6):
    """Pairs of points in the interior of the cone and its dual, not near the central path."""
    unit = cone.unit(torch.zeros(1, dtype=F64))
    s, z = (unit + 0.25 * torch.randn(40 * count, *unit.shape, dtype=F64) for _ in range(2))
    fine = torch.isfinite(cone.proximity(s, z))
    return s[fine][:count] * 3, z[fine][:count] / 7


def scaling(cone, s, z):
    return cone.scale(s, z, torch.ones(len(s), dtype=torch.bool))


@pytest.mark.parametrize("cone", CURVED, ids=names)
def test_derivatives_of_the_barriers(cone):
    s, z = inside(cone)
    value = lambda z: cone.values(s, z)[1].sum()  # noqa: E731
    gradient = torch.func.grad(value)
    directions = torch.randn(2, *z.shape, dtype=F64)
    barrier, scaled = cone.barrier(z), scaling(cone, s, z)
    torch.testing.assert_close(barrier.gradient, gradient(z))
    curved = torch.func.jvp(gradient, (z,), (directions[0],))[1]
    torch.testing.assert_close(mv(barrier.hessian, directions[0]), curved)
    third = torch.func.jvp(lambda z: torch.func.jvp(gradient, (z,), (directions[0],))[1], (z,), (directions[1],))[1]
    got = scaled.corrected(curved, directions[1], torch.zeros(len(z), 1, 1, dtype=F64))  # the Hessian is inverted again
    torch.testing.assert_close(got, -0.5 * third)
    torch.testing.assert_close(cone.barrier(cone.conjugate(s)).gradient, -s)
    primal, dual = cone.values(s, cone.conjugate(s))
    torch.testing.assert_close(primal, -dual, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cone", CURVED, ids=names)
def test_scaling_of_two_pairs(cone):
    s, z = inside(cone)
    H = scaling(cone, s, z).H
    torch.testing.assert_close(mv(H, z), s)
    torch.testing.assert_close(mv(H, cone.conjugate(s)), -cone.barrier(z).gradient)
    assert torch.linalg.eigvalsh(H).min() > 0
    mu = torch.rand(len(z), dtype=F64) + 0.1
    central = -mu[:, None, None] * cone.barrier(z).gradient
    expected = cone.degree * mu.log()
    torch.testing.assert_close(cone.proximity(central, z), -expected, rtol=1e-9, atol=1e-9)
    assert (cone.proximity(s, z) > -cone.degree * ((s * z).sum((-2, -1)) / cone.degree).log()).all()


@pytest.mark.parametrize("cone", SYMMETRIC, ids=names)
def test_scaling_of_symmetric_cones(cone):
    s, z = inside(cone)
    scaled, none = scaling(cone, s, z), torch.zeros(len(s), 1, 1, dtype=F64)
    torch.testing.assert_close(mv(scaled.H, z), s)
    torch.testing.assert_close(scaled.corrected(s, z, none), s)  # l \ (l o l) = l
    gradient = torch.func.grad(lambda z: cone.proximity(s, z).sum())(z)
    torch.testing.assert_close(scaled.corrected(0 * s, z, none + 2.0), 2 * gradient)
    ds, dz = torch.randn_like(s), torch.randn_like(z)
    reach = scaled.reach(ds, dz)
    for factor, stays in ((0.999, True), (1.001, False)):
        step = (factor * reach)[:, None, None]
        moved = cone.proximity(s + step * ds, z + step * dz)
        assert (torch.isfinite(moved) == (stays | torch.isinf(reach))).all()


# -- programs -------------------------------------------------------------------------------------------------------

each_method = pytest.mark.parametrize("method", [by_torch, by_kernel])
EXACT = 1e-12


def program_of(cones, P, q, A, b):
    data = cone_data(P, q, A, b, cones)
    P, q, A, b = (part.numpy() for part in data.tensors)
    return ConeProgram(cones, data.structure.on_P, P, q, data.structure.on_A, A, b, data.batch.numel())


def run(method, cones, *data, max_steps=100):
    if method is by_kernel and not available("cpu"):
        pytest.skip("no kernels")
    point = method(program_of(cones, *data), EXACT, max_steps)
    return [torch.from_numpy(part.copy()) for part in point]


def solved(method, status):
    """Where rounding ends the iteration short of EXACT the kernel still says so; the point is judged besides."""
    stopped = (status == ol.Status.NUMERICAL_ERROR) & (method is by_kernel)
    return (status == ol.Status.SOLVED) | stopped


def known_programs(cones, batch=4, linear=False):
    """Data and the solution ``(x, s, z)``: a projection and what it leaves are a slack and a multiplier."""
    m = cones.rows
    n = max(2, m // 2) if linear else m + 1
    v = torch.randn(batch, m, dtype=F64)
    s = project(cones, v)
    z = s - v
    x, A = torch.randn(batch, n, dtype=F64), torch.randn(batch, m, n, dtype=F64) / math.sqrt(n)
    root = torch.randn(batch, n, n, dtype=F64)
    P = 0 * root if linear else 0.5 * root @ root.mT / n + 0.05 * torch.eye(n, dtype=F64)
    return (P, -mv(P, x) - mv(A.mT, z), A, mv(A, x) + s), (x, s, z)


def largest(value):
    return value.abs().amax(-1)


def assert_optimal(cones, data, found, tol=1e-8):
    P, q, A, b = data
    x, s, z = found
    assert (largest(mv(P, x) + q + mv(A.mT, z)) <= tol * (1 + largest(q) + largest(mv(P, x)))).all()
    assert (largest(mv(A, x) + s - b) <= tol * (1 + largest(b) + largest(s))).all()
    assert ((s * z).sum(-1).abs() <= tol * (1 + (q * x).sum(-1).abs() + (b * z).sum(-1).abs())).all()
    assert (largest(project(cones, s) - s) <= tol * (1 + largest(s))).all()
    assert (largest(project(cones, -z)) <= tol * (1 + largest(z))).all()


@each_method
@each_cone
def test_reaches_a_known_solution(method, cones):
    data, expected = known_programs(cones)
    *found, status, iterations = run(method, cones, *data)
    assert solved(method, status).all() and iterations.max() < 30
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert_optimal(cones, data, found)


@each_method
@each_cone
def test_linear_objectives(method, cones):
    data, (x, _, _) = known_programs(cones, linear=True)
    *found, status, _ = run(method, cones, *data)
    assert solved(method, status).all()
    assert_optimal(cones, data, found)
    q = data[1]
    torch.testing.assert_close((q * found[0]).sum(-1), (q * x).sum(-1), rtol=1e-7, atol=1e-7)


@each_cone
def test_kernel_and_torch_agree(cones):
    data, _ = known_programs(cones)
    by = [run(method, cones, *data) for method in (by_torch, by_kernel)]
    for got, want, tol in zip(*by, (1e-4, 1e-4, 1e-4), strict=False):
        torch.testing.assert_close(got, want, rtol=0, atol=tol)


@each_cone
def test_clarabel_finds_the_same_value(cones):
    pytest.importorskip("clarabel")
    data, _ = known_programs(cones, batch=3, linear=True)
    program = program_of(cones, *data)
    values = [(program.q * solver.solve_cones(program).x).sum(-1) for solver in (ol.ConeInteriorPoint(), ol.Clarabel())]
    torch.testing.assert_close(*map(torch.from_numpy, values), rtol=1e-7, atol=1e-7)


def interior_of(cones, count):
    """Points in the interior of all cones and of their duals; arbitrary in the rows of the zero cone."""
    v = torch.randn(count, cones.rows, dtype=F64)
    s = project(cones, v)
    unit = interior(cones, v)
    return s + unit, s - v + unit


@each_method
@each_cone
def test_certificates(method, cones):
    """A sample each of solvable, infeasible (A'z = 0, b'z = -1), unbounded (Pd = 0, q'd = -1, -Ad in the cones)."""
    (P, q, A, b), _ = known_programs(cones, batch=3)
    s, z = interior_of(cones, 3)
    z = z + torch.randn_like(z) * (torch.arange(cones.rows) < cones.zero)
    A[1] -= torch.outer(z[1], A[1].mT @ z[1]) / (z[1] @ z[1])
    b[1] -= (b[1] @ z[1] + 1) / (z[1] @ z[1]) * z[1]
    d = torch.randn_like(q[2])
    off = torch.eye(len(d), dtype=F64) - torch.outer(d, d) / (d @ d)
    P[2] = off @ P[2] @ off
    A[2] -= torch.outer(A[2] @ d + s[2], d) / (d @ d)
    q[2] -= (q[2] @ d + 1) / (d @ d) * d
    b[2] = A[2] @ torch.randn_like(d) + s[2]
    x, _, z, status, _ = run(method, cones, P, q, A, b)
    S = ol.Status
    assert solved(method, status).tolist() == [True, False, False]
    assert status.tolist()[1:] == [S.PRIMAL_INFEASIBLE, S.DUAL_INFEASIBLE]
    z, d = z[1] / -(b[1] @ z[1]), x[2] / -(q[2] @ x[2])
    assert (A[1].mT @ z).abs().max() < 1e-6 * z.abs().max() and (P[2] @ d).abs().max() < 1e-6 * d.abs().max()
    for point in (project(cones, -z[None])[0], (project(cones, -(A[2] @ d)[None])[0] + A[2] @ d)):
        assert point.abs().max() < 1e-6 * (1 + z.abs().max() + d.abs().max())


@each_method
def test_units_do_not_matter(method):
    """Rows, variables and objective in other units, 1e-5 to 1e5."""
    cones = CONES["mixed"]
    (P, q, A, b), expected = known_programs(cones)
    row = torch.ones(cones.rows, dtype=F64)
    for group in groups(cones):
        for index in group.index if group.kind not in ("zero", "nonneg") else group.index.T:
            row[torch.as_tensor(index)] = 10.0 ** (10 * torch.rand(1, dtype=F64) - 5)
    column = 10.0 ** (4 * torch.rand(q.shape[-1], dtype=F64) - 2)
    data = 1e3 * column[:, None] * P * column, 1e3 * column * q, row[:, None] * A * column, row * b
    x, s, z, status, _ = run(method, cones, *data)
    assert solved(method, status).all()
    for got, want in zip((x * column, s / row, z * row / 1e3), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@each_method
def test_samples_are_strangers(method):
    """Alone, in another order, beside an infeasible one: the same, in torch to the rounding of its batched products."""
    tol = 1e-12 if method is by_kernel else 1e-5
    cones = CONES["mixed"]
    data, _ = known_programs(cones, batch=5)
    data[3][1, :2] += torch.tensor([1e3, -1e3])
    data[2][1, 1] = data[2][1, 0]  # equations that contradict each other
    *together, status, iterations = run(method, cones, *data)
    assert (
        solved(method, status).tolist() == [True, False, True, True, True] and status[1] == ol.Status.PRIMAL_INFEASIBLE
    )
    order = [4, 2, 0, 3]
    *others, _, others_iterations = run(method, cones, *(part[order] for part in data))
    alone = run(method, cones, *(part[2] for part in data))
    for whole, some, one in zip(together, others, alone, strict=False):
        torch.testing.assert_close(whole[order], some, rtol=tol, atol=tol)
        torch.testing.assert_close(whole[2:3], one, rtol=1e-5, atol=1e-5)  # one sample is laid out differently
    assert method is by_torch or torch.equal(iterations[order], others_iterations)


@each_method
def test_shared_arguments_and_step_limit(method):
    cones = CONES["mixed"]
    (P, q, A, b), _ = known_programs(cones, batch=3)
    shared = run(method, cones, P[0], q, A[0], b[0])
    copied = run(method, cones, P[:1].repeat(3, 1, 1), q, A[:1].repeat(3, 1, 1), b[:1].repeat(3, 1))
    for got, want in zip(shared, copied, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    *_, status, iterations = run(method, cones, P, q, A, b, max_steps=2)
    assert (status == ol.Status.MAX_STEPS).all() and (iterations == 2).all()


@each_method
@pytest.mark.parametrize("degenerate", ["dependent equations", "no solution is unique", "no rows", "weakly active"])
def test_degenerate_programs(method, degenerate):
    eye = torch.eye(2, dtype=F64)
    one = torch.ones(2, dtype=F64)
    cases = {  # P, q, A, b, cones and the optimal value
        "dependent equations": (eye, 0 * one, torch.ones(2, 2, dtype=F64), one, ol.Cones(zero=2), 0.25),
        "no solution is unique": (
            0 * eye,
            one,
            torch.cat([-one[None], -eye]),
            torch.tensor([-1.0, 0, 0]).to(F64),
            ol.Cones(nonneg=3),
            1.0,
        ),
        "no rows": (eye, -one, torch.zeros(0, 2, dtype=F64), torch.zeros(0, dtype=F64), ol.Cones(), -1.0),
        "weakly active": (eye, -one, eye, one, ol.Cones(nonneg=2), -1.0),
    }
    P, q, A, b, cones, value = cases[degenerate]
    x, _, _, status, _ = run(method, cones, P, q, A, b)
    assert solved(method, status).tolist() == [True]
    torch.testing.assert_close(0.5 * x[0] @ P @ x[0] + q @ x[0], torch.tensor(value, dtype=F64), rtol=1e-8, atol=1e-8)
