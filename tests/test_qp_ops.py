"""The quadratic program ops: kernel against reference, both against independent oracles, and the hard cases."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from optlayers import Status
from optlayers._native import ops, reference

EPS = 1e-9
STEPS = 100


def solve_plain(*problem, eps=EPS, max_steps=STEPS):
    return ops.QPSolveResult(*reference.qp_solve(*problem, eps, max_steps))


def solve_native(*problem, eps=EPS, max_steps=STEPS):
    return ops.qp_solve(*problem, eps, max_steps)


def kkt_plain(*system):
    return ops.QPKktResult(*reference.qp_kkt(*system))


both = pytest.mark.parametrize("solve", [solve_native, solve_plain], ids=["native", "plain"])


def backward_plain(*arguments):
    return ops.QPBackwardResult(*reference.qp_backward(*arguments))


both_kkt = pytest.mark.parametrize("kkt", [ops.qp_kkt, kkt_plain], ids=["native", "plain"])


# -- problems and oracles ------------------------------------------------------------------------------------


def make(batch, n, m, k, *, bounds=False, rank=None, dtype=torch.float64):
    """Random programs with a known strictly feasible point; bounded below through Q or, with `bounds`, a box."""
    L = torch.randn(batch, n, n if rank is None else rank, dtype=torch.float64)
    Q = L @ L.mT / n + (1e-2 if rank is None else 0.0) * torch.eye(n, dtype=torch.float64)
    x = torch.randn(batch, n, dtype=torch.float64)
    G, A = torch.randn(batch, m, n, dtype=torch.float64), torch.randn(batch, k, n, dtype=torch.float64)
    h, b = (G @ x[..., None])[..., 0] + torch.rand(batch, m, dtype=torch.float64), (A @ x[..., None])[..., 0]
    width = n if bounds else 0
    lb, ub = x[:, :width] - torch.rand(batch, width), x[:, :width] + torch.rand(batch, width)
    return [t.to(dtype) for t in (Q, torch.randn(batch, n, dtype=torch.float64), G, h, A, b, lb, ub)]


def none(problem):
    """Empty bounds for a problem."""
    return problem[1].new_zeros(len(problem[1]), 0)


def kkt_residual(problem, r):
    """Largest relative KKT residual over a batch, written anew from the definition; infinite where h or a bound is."""
    Q, p, G, h, A, b, lb, ub = (t.double() for t in problem)
    x, y, z, z_lb, z_ub = (t.double() for t in r[:5])
    mul = lambda M, v: (M @ v.unsqueeze(-1)).squeeze(-1)  # noqa: E731
    bound = torch.zeros_like(x)
    if lb.shape[-1]:
        bound = bound - z_lb
    if ub.shape[-1]:
        bound = bound + z_ub
    terms = [mul(Q, x), p, mul(G.mT, z), mul(A.mT, y), bound]
    worst = [(sum(terms).abs().amax(-1) / (1 + torch.stack(terms).abs().amax((0, -1)))).max()]
    worst.append(((mul(A, x) - b).abs() / (1 + b.abs())).amax() if b.numel() else 0.0)
    pairs = [(h - mul(G, x), z, h)]
    pairs += [(x - lb, z_lb, lb)] if lb.shape[-1] else []
    pairs += [(ub - x, z_ub, ub)] if ub.shape[-1] else []
    for slack, multiplier, size in pairs:
        if slack.numel():
            unit = 1 + torch.where(size.isfinite(), size.abs(), 0.0)
            worst.append((-slack / unit).amax())
            worst.append((-multiplier).amax())
            worst.append(torch.minimum(slack.clamp(min=0) / unit, multiplier / (1 + multiplier.amax())).amax())
    return max(float(w) for w in worst)


def active_set_solution(problem, r, i):
    """x and the multipliers by LU on the active set that `r` claims, with signs and feasibility checked."""
    Q, p, G, h, A, b, lb, ub = (t[i].double().numpy() for t in problem)
    n = len(p)
    on = [r.active_G[i].numpy(), r.active_lb[i].numpy(), r.active_ub[i].numpy()]
    eye = np.eye(n)
    C = np.vstack([A, G[on[0]], -eye[: len(lb)][on[1]], eye[: len(ub)][on[2]]])
    c = np.concatenate([b, h[on[0]], -lb[on[1]], ub[on[2]]])
    K = np.block([[Q, C.T], [C, np.zeros((len(c), len(c)))]])
    d = np.linalg.solve(K, np.concatenate([-p, c]))
    x, dual = d[:n], d[n:]
    assert (dual[len(b) :] > 0).all() and (G @ x <= h + 1e-9).all()
    assert len(lb) == 0 or (x >= lb - 1e-9).all()
    assert len(ub) == 0 or (x <= ub + 1e-9).all()
    return x, dual


def assert_solved(problem, r, tolerance=1e-9):
    assert r.status.tolist() == [Status.SOLVED] * len(r.status)
    assert kkt_residual(problem, r) < tolerance
    assert r.residuals.shape == (len(r.status), 3) and (r.residuals <= EPS).all()


# -- qp_solve ------------------------------------------------------------------------------------------------

SIZES = [(1, 1, 1, 0), (7, 2, 3, 1), (5, 10, 10, 3), (3, 17, 5, 0), (3, 24, 0, 6), (2, 33, 40, 8), (2, 70, 30, 10)]


@both
@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_solution_equals_lu_on_the_active_set(solve, size, bounds):
    problem = make(*size, bounds=bounds)
    r = solve(*problem)
    assert_solved(problem, r)
    for i in range(size[0]):
        x, dual = active_set_solution(problem, r, i)
        np.testing.assert_allclose(r.x[i].numpy(), x, rtol=0, atol=1e-11 * (1 + abs(x).max()))
        mine = torch.cat([r.y[i], r.z[i][r.active_G[i]], r.z_lb[i][r.active_lb[i]], r.z_ub[i][r.active_ub[i]]])
        np.testing.assert_allclose(mine.numpy(), dual, rtol=0, atol=1e-10 * (1 + abs(dual).max(initial=0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(n % 3 + 1, n, 70 - n, n // 4) for n in range(1, 71, 6)], ids=str)
def test_kernel_equals_reference(size, dtype):
    problem = make(*size, bounds=size[1] % 2 == 0, dtype=dtype)
    mine, plain = solve_native(*problem), solve_plain(*problem)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for name, a, b in zip(mine._fields, mine, plain, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, name
        if name != "iterations":  # rounding may decide a step earlier or later
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=name)


@both
@pytest.mark.parametrize("kind", ["neither", "no inequality", "no equality", "bounds only"])
def test_missing_parts(solve, kind):
    parts = {"neither": (0, 0, 0), "no inequality": (0, 3, 0), "no equality": (6, 0, 0), "bounds only": (0, 0, 1)}
    m, k, bounds = parts[kind]
    problem = make(3, 8, m, k, bounds=bool(bounds))
    r = solve(*problem)
    assert_solved(problem, r)
    if kind == "neither":
        torch.testing.assert_close(r.x, -torch.linalg.solve(problem[0], problem[1]), rtol=1e-9, atol=1e-9)


@both
def test_only_the_symmetric_part_of_Q_counts(solve):
    problem = make(3, 9, 4, 2)
    want = solve(*problem)
    skew = torch.randn(3, 9, 9).double()
    problem[0] = problem[0] + skew - skew.mT
    torch.testing.assert_close(solve(*problem).x, want.x, rtol=1e-10, atol=1e-10)


@both
def test_infinite_right_hand_sides_are_absent_rows(solve):
    problem = make(4, 6, 8, 2, bounds=True)
    problem[3][:, 2:5] = torch.inf
    problem[6][:, :3] = -torch.inf
    problem[7][:, 1:4] = torch.inf
    r = solve(*problem)
    assert_solved(problem, r)
    assert (r.z[:, 2:5] == 0).all() and (r.z_lb[:, :3] == 0).all() and (r.z_ub[:, 1:4] == 0).all()
    assert (r.s[:, 2:5] == torch.inf).all()
    without = list(problem)
    without[2], without[3] = (torch.cat([t[:, :2], t[:, 5:]], 1) for t in (problem[2], problem[3]))
    torch.testing.assert_close(r.x, solve(*without).x, rtol=1e-10, atol=1e-10)


@both
def test_linear_programs(solve):
    problem = make(6, 7, 5, 2, bounds=True)
    problem[0] = torch.zeros_like(problem[0])
    r = solve(*problem)
    assert_solved(problem, r)
    for i in range(6):
        _, p, G, h, A, b, lb, ub = (t[i].numpy() for t in problem)
        best = linprog(p, G, h, A, b, list(zip(lb, ub, strict=True))).fun
        assert abs(p @ r.x[i].numpy() - best) < 1e-9 * (1 + abs(best))


@both
def test_singular_Q(solve):
    problem = make(5, 9, 4, 2, bounds=True, rank=3)
    assert_solved(problem, solve(*problem))


@both
def test_nonunique_minimiser_is_bounded(solve):
    """min 1/2 (x0 - 1)^2 over three variables: the free ones stay where they start, near zero."""
    Q, p = torch.zeros(1, 3, 3).double(), torch.zeros(1, 3).double()
    Q[0, 0, 0], p[0, 0] = 1, -1
    e = p[:, :0]
    r = solve(Q, p, p.new_zeros(1, 0, 3), e, p.new_zeros(1, 0, 3), e, e, e)
    torch.testing.assert_close(r.x, torch.tensor([[1.0, 0.0, 0.0]]).double(), rtol=0, atol=1e-9)


@both
def test_duplicate_and_dependent_rows(solve):
    Q, p, G, h, A, b, lb, ub = make(4, 8, 6, 3)
    reference_solution = solve(Q, p, G, h, A, b, lb, ub)
    more = (
        torch.cat([G, G, 3 * G[:, :2]], 1),
        torch.cat([h, h, 3 * h[:, :2]], 1),
        torch.cat([A, A[:, :1], A.sum(1, keepdim=True)], 1),
        torch.cat([b, b[:, :1], b.sum(1, keepdim=True)], 1),
    )
    problem = (Q, p, *more, lb, ub)
    r = solve(*problem)
    assert_solved(problem, r)
    torch.testing.assert_close(r.x, reference_solution.x, rtol=1e-9, atol=1e-9)
    assert r.z.abs().max() <= 2 * reference_solution.z.abs().max() and r.y.abs().max() < 10


@both
def test_duplicate_rows_share_their_multiplier(solve):
    """min 1/2 x^2 s.t. x <= -1, twice: the multiplier of least norm has equal halves."""
    one = torch.ones(1, 1, 1).double()
    e = one[0, :, :0]
    r = solve(one, one[0] * 0, one.expand(1, 2, 1), -torch.ones(1, 2).double(), one[:, :0], e, e, e)
    torch.testing.assert_close(r.z, torch.full((1, 2), 0.5).double(), rtol=0, atol=1e-6)
    assert r.active_G.all()


@both
@pytest.mark.parametrize("kind", ["cost", "rows", "both"])
def test_bad_scaling(solve, kind):
    Q, p, G, h, A, b, lb, ub = make(4, 10, 8, 3, bounds=True)
    plain = solve(Q, p, G, h, A, b, lb, ub)
    cost = 1e6 if kind != "rows" else 1.0
    rows = torch.ones(8, dtype=torch.float64)
    if kind != "cost":
        rows[:4], rows[4:] = 1e-6, 1e4
    problem = (cost * Q, cost * p, rows[:, None] * G, rows * h, 1e4 * A, 1e4 * b, lb, ub)
    r = solve(*problem)
    assert r.status.tolist() == [0] * 4
    torch.testing.assert_close(r.x, plain.x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(r.z * rows / cost, plain.z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(r.y * 1e4 / cost, plain.y, rtol=1e-9, atol=1e-9)


@both
def test_weakly_active_constraints_are_exact_and_not_marked(solve):
    """The minimiser of 1/2 |x - x0|^2 touches x_0 <= x0_0 without pushing, and pushes against x_1 <= x0_1 - 1."""
    x0 = torch.randn(3, 4).double()
    Q = torch.eye(4).double().expand(3, 4, 4)
    G = torch.eye(4).double()[:2].expand(3, 2, 4)
    h = x0[:, :2] - torch.tensor([0.0, 1.0]).double()
    e, E = x0[:, :0], x0.new_zeros(3, 0, 4)
    r = solve(Q, -x0, G, h, E, e, e, e)
    want = x0.clone()
    want[:, 1] -= 1
    torch.testing.assert_close(r.x, want, rtol=0, atol=1e-11)
    assert r.active_G.tolist() == [[False, True]] * 3
    torch.testing.assert_close(r.z, torch.tensor([[0.0, 1.0]] * 3).double(), rtol=0, atol=1e-11)


@both
def test_constraints_through_the_solution_are_not_marked(solve):
    """Rows that pass through the solution, up to rounding, whichever side the rounding falls."""
    problem = make(8, 10, 5, 1)  # fewer rows than variables: multipliers are unique
    before = solve(*problem)
    g = torch.randn(8, 3, 10).double()
    problem[2] = torch.cat([problem[2], g], 1)
    problem[3] = torch.cat([problem[3], (g @ before.x[..., None])[..., 0]], 1)
    r = solve(*problem)
    assert_solved(problem, r)
    torch.testing.assert_close(r.x, before.x, rtol=0, atol=1e-11)
    assert torch.equal(r.active_G[:, :5], before.active_G) and not r.active_G[:, 5:].any()


@both
def test_units_of_variables_do_not_matter(solve):
    Q, p, G, h, A, b, lb, ub = make(4, 10, 8, 3, bounds=True)
    unit = 10 ** torch.linspace(-5, 5, 10, dtype=torch.float64)
    plain = solve(Q, p, G, h, A, b, lb, ub)
    r = solve(unit[:, None] * Q * unit, unit * p, G * unit, h, A * unit, b, lb / unit, ub / unit)
    assert r.status.tolist() == [0] * 4
    torch.testing.assert_close(r.x * unit, plain.x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(r.z, plain.z, rtol=1e-8, atol=1e-8)


@both
def test_fixed_variables(solve):
    problem = make(4, 6, 4, 1, bounds=True)
    feasible = solve(*problem).x
    problem[1] = torch.randn(4, 6).double()
    problem[6][:, :2] = problem[7][:, :2] = feasible[:, :2]
    r = solve(*problem)
    assert_solved(problem, r)
    torch.testing.assert_close(r.x[:, :2], problem[6][:, :2], rtol=0, atol=1e-12)
    assert (r.active_lb[:, :2] ^ r.active_ub[:, :2]).all()
    assert (r.z_lb[:, :2] * r.z_ub[:, :2] == 0).all()


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_is_as_accurate_as_its_data(solve, dtype):
    problem = make(4, 20, 15, 4, bounds=True, dtype=dtype)
    r = solve(*problem)
    assert all(t.dtype == dtype for t in (*r[:6], r.residuals))
    exact = solve(*(t.double() for t in problem))
    torch.testing.assert_close(r.x.double(), exact.x, rtol=0, atol=4 * torch.finfo(dtype).eps * 10)


@both
def test_degenerate_vertex(solve):
    """Ten facets through the apex of a cone in three dimensions; p pushes into it."""
    angle = torch.arange(10).double() * 2 * torch.pi / 10
    G = torch.stack([angle.cos(), angle.sin(), torch.ones(10).double()], -1)[None]
    up = torch.tensor([[0.0, 0.0, -1.0]]).double()
    problem = [torch.eye(3).double()[None] * 1e-3, up, G, torch.ones(1, 10).double()]
    e, E = problem[1][:, :0], G[:, :0]
    problem += [E, e, e, e]
    r = solve(*problem)
    assert_solved(problem, r)
    torch.testing.assert_close(r.x, torch.tensor([[0.0, 0.0, 1.0]]).double(), rtol=0, atol=1e-9)


# -- statuses ------------------------------------------------------------------------------------------------


def spoil(problem, i, kind):
    """Turn sample i into one that has no solution."""
    Q, p, G, h, A, b, _lb, _ub = problem
    if kind == "infeasible":
        G[i, 1], h[i, 1] = -G[i, 0], -h[i, 0] - 1
        return Status.PRIMAL_INFEASIBLE
    if kind == "unbounded":
        for t in (Q, G, A):
            t[i] = 0
        h[i], b[i], p[i] = 1, 0, 1
        return Status.DUAL_INFEASIBLE
    {"nan": Q, "nan h": h, "infinite A": A}.get(kind, Q)[i].view(-1)[0] = torch.inf if "infinite" in kind else torch.nan
    if kind == "indefinite":
        Q[i] = torch.eye(Q.shape[-1]).double()
        Q[i, 0, 0] = -1
    if kind == "h = -inf":
        Q[i] = torch.eye(Q.shape[-1]).double()
        h[i, 0] = -torch.inf
    return Status.INVALID_INPUT


BAD = ["infeasible", "unbounded", "nan", "nan h", "infinite A", "indefinite", "h = -inf"]


@both
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_sample_is_told_and_leaves_its_neighbours_alone(solve, kind):
    problem = make(9, 7, 6, 2)
    before = solve(*problem)
    status = spoil(problem, 2, kind)
    r = solve(*problem)
    assert r.status.tolist() == [0, 0, status, 0, 0, 0, 0, 0, 0]
    for i in (0, 1, 3, 4, 5, 6, 7, 8):
        alone = solve(*(t[i : i + 1] for t in problem))
        for name, a, b, c in zip(r._fields, r, alone, before, strict=True):
            if solve is solve_native:
                assert torch.equal(a[i], c[i]), name
            if name != "residuals":
                torch.testing.assert_close(a[i], b[0], rtol=1e-10, atol=1e-10)
    if status == Status.INVALID_INPUT:
        assert r.x[2].isnan().all() and r.z[2].isnan().all() and not r.active_G[2].any()


@both
def test_lower_bound_above_upper_bound_is_invalid(solve):
    problem = make(2, 3, 0, 0, bounds=True)
    problem[6][1, 2] = problem[7][1, 2] + 1
    assert solve(*problem).status.tolist() == [0, Status.INVALID_INPUT]


def infeasible(generator):
    """Programs that violate a nonnegative combination of their rows, an equality combination, or a box."""
    n = int(torch.randint(1, 12, (), generator=generator))
    problem = make(1, n, int(torch.randint(2, 15, (), generator=generator)), max(1, n // 3), bounds=True)
    Q, p, G, h, A, b, lb, ub = problem
    gap = 10 ** (3 * torch.rand((), generator=generator).double() - 2)
    kind = int(torch.randint(0, 3, (), generator=generator))
    if kind == 0:
        w = torch.rand(1, 1, G.shape[1]).double()
        G, h = torch.cat([G, -w @ G], 1), torch.cat([h, -(w @ h[..., None])[..., 0] - gap], 1)
    elif kind == 1:
        A, b = torch.cat([A, A.sum(1, keepdim=True)], 1), torch.cat([b, b.sum(1, keepdim=True) + gap], 1)
    else:
        g = torch.randn(1, 1, n).double()
        least = torch.where(g[0] > 0, lb, ub) * g[0]
        G, h = torch.cat([G, g], 1), torch.cat([h, least.sum(-1, keepdim=True) - gap], 1)
    if kind < 2:
        lb, ub = none(problem), none(problem)
    return Q * (torch.rand((), generator=generator) < 0.7), p, G, h, A, b, lb, ub


@both
def test_infeasible_programs_come_with_a_farkas_certificate(solve):
    generator = torch.Generator().manual_seed(1)
    for _ in range(200 if solve is solve_native else 40):
        problem = infeasible(generator)
        r = solve(*problem)
        assert r.status.item() == Status.PRIMAL_INFEASIBLE
        _, _, G, h, A, b, lb, ub = (t[0] for t in problem)
        y, z, z_lb, z_ub = (t[0] for t in r[1:5])
        size = torch.cat([y, z, z_lb, z_ub]).abs().max()
        assert abs(size - 1) < 1e-12 and all((t >= 0).all() for t in (z, z_lb, z_ub))
        leak = A.mT @ y + G.mT @ z
        support = b @ y + h @ z
        if lb.numel():
            leak, support = leak + z_ub - z_lb, support + ub @ z_ub - lb @ z_lb
        assert support < 0 and leak.abs().max() < 1e-5 * -support


@both
def test_unbounded_programs_come_with_a_ray(solve):
    for _ in range(100 if solve is solve_native else 20):
        Q, p, G, h, A, b, lb, ub = make(1, 7, 6, 2, rank=5)
        d = torch.randn(7).double()
        d = d / d.norm()
        off = torch.eye(7).double() - torch.outer(d, d)
        Q, A, p = off @ Q @ off, A @ off, p - d * (p @ d + 0.5)
        G = torch.where((G @ d)[..., None] > 0, -G, G)
        h, b = h.abs(), b * 0
        r = solve(Q, p, G, h, A, b, lb, ub)
        assert r.status.item() == Status.DUAL_INFEASIBLE
        x = r.x[0]
        assert abs(x.abs().max() - 1) < 1e-12 and p[0] @ x < -1e-3
        assert (Q[0] @ x).abs().max() < 1e-5 and (A[0] @ x).abs().max() < 1e-5 and (G[0] @ x).max() < 1e-5


@both
def test_no_verdict_against_feasible_programs(solve):
    """Singular, degenerate, duplicated, scaled by 1e-6 to 1e6, and solvable by construction from a KKT point."""
    for i in range(200 if solve is solve_native else 30):
        Q, _, G, h, A, b, lb, ub = make(1, 9, 12, 3, rank=(0, 4, 9)[i % 3])
        x = torch.randn(9).double() * 10 ** (3 * torch.rand(()).double())
        tight = torch.rand(12) < 0.4
        z = torch.rand(12).double() * tight * (torch.rand(12) < 0.7)
        rows = 10 ** (8 * torch.rand(12).double() - 5)
        Q = Q * 10 ** (8 * torch.rand(()).double() - 4)
        h = (G @ x) + torch.rand(12).double() * ~tight
        b = A @ x
        p = -(Q @ x + z @ G[0] + torch.randn(3).double() @ A[0])
        A, b = torch.cat([A, A[:, :2]], 1), torch.cat([b, b[:, :2]], 1)
        problem = (Q, p, rows[:, None] * G, rows * h, A, b, lb, ub)
        r = solve(*problem)
        assert r.status.item() in (Status.SOLVED, Status.MAX_STEPS), i
        assert r.status.item() == Status.SOLVED or r.residuals.max() < 1e-5, i


@both
@pytest.mark.parametrize("curvature", [1e-3, 1e-5, 1e-7])
def test_remote_minimiser_is_not_taken_for_a_ray(solve, curvature):
    p = torch.ones(1, 3).double()
    e, E = p[:, :0], p.new_zeros(1, 0, 3)
    r = solve(curvature * torch.eye(3).double()[None], p, E, e, E, e, e, e)
    assert r.status.item() == Status.SOLVED
    torch.testing.assert_close(r.x, -p / curvature, rtol=1e-8, atol=0)


@both
@pytest.mark.parametrize("slope", [1e-1, 1e-3, 1e-5, 1e-7])
def test_remote_feasible_set_is_not_taken_for_empty(solve, slope):
    """x0 - x1 <= -1 and x1 <= (1 - slope) x0 hold from x0 = -1/slope on only, with multipliers of order 1/slope^2."""
    G = torch.tensor([[[1.0, -1.0], [slope - 1, 1.0]]], dtype=torch.float64)
    h = torch.tensor([[-1.0, 0.0]], dtype=torch.float64)
    e, E = h[:, :0], h.new_zeros(1, 0, 2)
    r = solve(torch.eye(2).double()[None], 0 * h, G, h, E, e, e, e)
    assert r.status.item() == (Status.SOLVED if slope >= 1e-3 else Status.MAX_STEPS)
    if slope >= 1e-3:
        want = torch.tensor([[-1 / slope, 1 - 1 / slope]], dtype=torch.float64)
        torch.testing.assert_close(r.x, want, rtol=1e-8, atol=0)


@both
def test_step_limit_is_told(solve):
    problem = make(2, 12, 20, 0)
    r = solve(*problem, max_steps=0)
    assert r.status.tolist() == [Status.MAX_STEPS] * 2 and r.iterations.tolist() == [0, 0]
    assert r.x.isfinite().all()


# -- batches, strides, transforms ----------------------------------------------------------------------------


@both
def test_empty_batch(solve):
    r = solve(*(t[:0] for t in make(1, 4, 3, 2, bounds=True)))
    assert r.x.shape == (0, 4) and r.status.shape == (0,) and r.residuals.shape == (0, 3)


@both
def test_shared_and_strided_inputs(solve):
    Q, p, G, h, A, b, *_ = make(1, 6, 5, 2)
    p = torch.randn(4, 6).double()
    shared = (Q.expand(4, 6, 6), p, G.expand(4, 5, 6), h.expand(4, 5), A.expand(4, 2, 6), b.expand(4, 2))
    e = p[:, :0]
    copied = [t.clone() for t in shared]
    strided = [torch.stack([t, t], -1)[..., 0] for t in copied]
    strided[2] = copied[2].mT.contiguous().mT
    want = solve(*copied, e, e)
    for variant in (shared, strided):
        got = solve(*variant, e, e)
        for a, b_ in zip(got, want, strict=True):
            torch.testing.assert_close(a, b_, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("size", [(23, 1, 2, 0), (23, 5, 9, 1), (23, 12, 10, 4), (9, 30, 35, 5)], ids=str)
def test_results_do_not_depend_on_the_batch(size, bounds):
    """One problem per lane or all lanes on one problem, in whatever order: the same numbers."""
    problem = make(*size, bounds=bounds)
    problem[3][::3, 0] = torch.inf
    want = solve_native(*problem)
    assert_solved(problem, want)
    order = torch.randperm(size[0])
    shuffled = solve_native(*(t[order] for t in problem))
    alone = [solve_native(*(t[i : i + 1] for t in problem)) for i in range(size[0])]
    for name, a, b, *c in zip(want._fields, want, shuffled, *alone, strict=True):
        assert torch.equal(a[order], b), name
        scale = 1 + float(a.double().nan_to_num(0, 0, 0).abs().max()) if a.numel() else 1
        torch.testing.assert_close(torch.cat(c), a, rtol=1e-12, atol=1e-12 * scale, msg=name)


def test_vmap_is_a_bigger_batch():
    problem = make(6, 5, 4, 1)
    want = ops.qp_solve(*problem, EPS, STEPS)
    split = [t.reshape(2, 3, *t.shape[1:]) for t in problem]
    got = torch.vmap(lambda *q: tuple(ops.qp_solve(*q, EPS, STEPS)))(*split)
    nested = torch.vmap(torch.vmap(lambda *q: tuple(ops.qp_solve(*(t[None] for t in q), EPS, STEPS))))(*split)
    for a, b, c in zip(got, want, nested, strict=True):
        assert torch.equal(a.reshape(b.shape), b) and torch.equal(c.reshape(b.shape), b)
    shared = torch.vmap(lambda p: ops.qp_solve(problem[0], p, *problem[2:], EPS, STEPS).x)(problem[1][None])
    assert torch.equal(shared[0], want.x)


def test_ops_pass_torch_checks():
    problem = make(2, 4, 3, 1, bounds=True)
    torch.library.opcheck(torch.ops.optlayers.qp_solve.default, (*problem, EPS, STEPS))
    r = ops.qp_solve(*problem, EPS, STEPS)
    system = (problem[0], problem[2], problem[4], r.active_G, r.active_lb, r.active_ub, r.x, r.y, r.z, r.z_lb, r.z_ub)
    torch.library.opcheck(torch.ops.optlayers.qp_kkt.default, system)
    for wants in ((True, True, True), (False, True, False)):
        at = (*system[:6], r.x, r.y, r.z, *system[6:], *wants)
        torch.library.opcheck(torch.ops.optlayers.qp_backward.default, at)


def test_only_plain_tensors_pass_the_dispatcher_by():
    problem = make(3, 5, 4, 1)
    want = ops.qp_solve(*problem, EPS, STEPS)
    assert ops._direct(*problem) and ops._direct(*(t.clone().requires_grad_() for t in problem))
    negated = [torch.complex(torch.zeros_like(t), -t).conj().imag for t in problem]  # views with a pending negation
    assert not ops._direct(*negated)
    assert all(torch.equal(a, b) for a, b in zip(ops.qp_solve(*negated, EPS, STEPS), want, strict=True))
    with torch._subclasses.FakeTensorMode():
        assert not ops._direct(*problem)
    torch.vmap(lambda p: p if not ops._direct(p) else pytest.fail("a vmapped tensor is not plain"))(problem[1])


@pytest.mark.parametrize("sizes", [(9, 20, 20, 4), (1, 210, 130, 30)], ids=["one-sample-each", "one-for-all"])
def test_results_do_not_depend_on_threads(sizes):
    problem = make(*sizes)
    want = ops.qp_solve(*problem, EPS, STEPS)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        got = ops.qp_solve(*problem, EPS, STEPS)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_autograd_runs_through_the_reference():
    """The unrolled interior point has the derivative of the solution map, here by finite differences."""
    problem = make(2, 4, 3, 1)
    p = problem[1].clone().requires_grad_()

    def x(p):
        return reference.qp_solve(problem[0], p, *problem[2:], 1e-12, 60, polish=False)[0]

    direction = torch.randn(2, 4).double()
    (gradient,) = torch.autograd.grad(x(p), p, direction)
    step = 1e-6 * torch.randn(2, 4).double()
    with torch.no_grad():
        change = ((x(p + step) - x(p - step)) * direction).sum(-1) / 2
    torch.testing.assert_close((gradient * step).sum(-1), change, rtol=1e-4, atol=1e-10)


# -- qp_kkt --------------------------------------------------------------------------------------------------


def system(batch, n, m, k, *, bounds=True, dtype=torch.float64, like=None):
    """A random active-set system with few enough active rows to be regular."""
    Q, _, G, _, A, *_ = make(batch, n, m, k, dtype=dtype) if like is None else like
    masks = [torch.rand(batch, m) < 0.5 * n / (4 * m + 1), *(torch.rand(batch, n * bounds) < 0.1 for _ in range(2))]
    masks[2] &= ~masks[1]
    r = [torch.randn(batch, w, dtype=dtype) for w in (n, A.shape[1], m, n * bounds, n * bounds)]
    return (Q, G, A, *masks, *r)


def assemble(args, i):
    """The matrix and right-hand side of sample i, and where its multipliers sit."""
    Q, G, A, on_G, on_lb, on_ub, r_x, r_y, r_z, r_lb, r_ub = (t[i] for t in args)
    eye = torch.eye(len(r_x), dtype=Q.dtype)
    C = torch.cat([A, G[on_G], -eye[: len(on_lb)][on_lb], eye[: len(on_ub)][on_ub]])
    K = torch.cat([torch.cat([Q, C.mT], 1), torch.cat([C, C.new_zeros(len(C), len(C))], 1)])
    return K, torch.cat([r_x, r_y, r_z[on_G], r_lb[on_lb], r_ub[on_ub]])


def flat(args, d, i):
    on_G, on_lb, on_ub = (t[i] for t in args[3:6])
    assert (d.d_z[i][~on_G] == 0).all() and (d.d_lb[i][~on_lb] == 0).all() and (d.d_ub[i][~on_ub] == 0).all()
    return torch.cat([d.d_x[i], d.d_y[i], d.d_z[i][on_G], d.d_lb[i][on_lb], d.d_ub[i][on_ub]])


@both_kkt
@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("size", [(2, 1, 1, 0), (3, 5, 4, 0), (3, 12, 10, 3), (2, 40, 20, 8)], ids=str)
def test_kkt_equals_lu(kkt, size, bounds):
    args = system(*size, bounds=bounds)
    d = kkt(*args)
    assert (d.error < 1e-12).all()
    for i in range(size[0]):
        K, r = assemble(args, i)
        want = torch.linalg.solve(K, r)
        torch.testing.assert_close(flat(args, d, i), want, rtol=0, atol=1e-11 * float(want.abs().max()))


@both_kkt
def test_kkt_does_not_feel_scaling(kkt):
    Q, G, A, *rest = system(3, 10, 8, 3)
    rows = 10 ** (10 * torch.rand(8).double() - 6)
    args = (1e6 * Q, rows[:, None] * G, 1e4 * A, *rest)
    d = kkt(*args)
    assert (d.error < 1e-12).all()
    for i in range(3):
        K, r = assemble(args, i)
        got = flat(args, d, i)
        assert ((K @ got - r).abs() <= 1e-11 * (K.abs() @ got.abs() + r.abs())).all()


@both_kkt
def test_kkt_float32(kkt):
    args = system(3, 12, 10, 3, dtype=torch.float32)
    d = kkt(*args)
    for i in range(3):
        K, r = (t.double() for t in assemble(args, i))
        want = torch.linalg.solve(K, r)
        torch.testing.assert_close(flat(args, d, i).double(), want, rtol=0, atol=1e-6 * float(want.abs().max()))


@both_kkt
@pytest.mark.parametrize("contradictory", [False, True])
def test_kkt_of_duplicate_rows_is_least_squares(kkt, contradictory):
    Q, G, A, *masks, r_x, r_y, r_z, r_lb, r_ub = system(3, 8, 3, 2, bounds=False)
    args = (Q, G, torch.cat([A, A], 1), *masks, r_x, torch.cat([r_y, r_y + contradictory], 1), r_z, r_lb, r_ub)
    d = kkt(*args)
    assert ((d.error > 1e-2) if contradictory else (d.error < 1e-9)).all()
    for i in range(3):
        K, r = assemble(args, i)
        want = torch.linalg.pinv(K, hermitian=True, rtol=1e-11) @ r
        # Duplicates are scaled alike, so their share of a multiplier does not depend on the equilibration.
        torch.testing.assert_close(d.d_x[i], want[:8], rtol=0, atol=1e-8 * float(want.abs().max()))
        torch.testing.assert_close(flat(args, d, i)[8:12], want[8:12], rtol=0, atol=1e-6 * float(want.abs().max()))


@both_kkt
def test_kkt_of_singular_Q_gives_no_noise(kkt):
    """Q has rank two and nothing holds the other directions: contradictory for a random right-hand side."""
    Q, G, A, *rest = system(3, 7, 2, 1, bounds=False)
    Q = Q[:, :, :2] @ Q[:, :, :2].mT
    d = kkt(Q, G, A, *rest)
    assert (d.error > 1e-3).all()
    assert torch.cat([t.flatten() for t in d[:5]]).abs().max() < 1e6
    consistent = (Q @ torch.randn(3, 7, 1).double())[..., 0]
    zero = [torch.zeros_like(t) for t in rest[4:]]
    d = kkt(Q, G, A, *rest[:3], consistent, *zero)
    assert (d.error < 1e-8).all() and d.d_x.abs().max() < 1e4


@both_kkt
def test_kkt_nan_stays_in_its_sample(kkt):
    args = system(3, 6, 4, 2)
    want = kkt(*args)
    args[6][1, 0] = torch.nan
    args[8][:, :][~args[3]] = torch.nan  # right-hand sides of inactive rows are not read
    got = kkt(*args)
    assert got.d_x[1].isnan().all() and got.error[1].isnan()
    for i in (0, 2):
        torch.testing.assert_close(flat(args, got, i), flat(args, want, i), rtol=1e-12, atol=1e-12)


def test_kkt_does_not_depend_on_the_batch():
    for size in ((11, 3, 2, 1), (11, 9, 8, 2), (6, 30, 20, 4)):
        args = system(*size)
        together = ops.qp_kkt(*args)
        for i in range(size[0]):
            for a, b in zip(ops.qp_kkt(*(t[i : i + 1] for t in args)), together, strict=True):
                torch.testing.assert_close(a[0], b[i], rtol=1e-10, atol=1e-11 * (1 + float(together.d_x.abs().max())))


def test_kkt_vmap_and_empty_batch():
    args = system(4, 6, 4, 2)
    want = ops.qp_kkt(*args)
    got = torch.vmap(lambda *a: tuple(ops.qp_kkt(*(t[None] for t in a))))(*args)
    assert all(torch.equal(a[:, 0], b) for a, b in zip(got, want, strict=True))
    assert ops.qp_kkt(*(t[:0] for t in args)).d_x.shape == (0, 6)


# -- qp_backward ---------------------------------------------------------------------------------------------

both_backward = pytest.mark.parametrize("backward", [ops.qp_backward, backward_plain], ids=["native", "plain"])


def at_random(args):
    """The arguments of qp_backward for those of qp_kkt: a made-up solution, the right-hand sides as cotangents."""
    Q, G, A, *masks, r_x, r_y, r_z, r_lb, r_ub = args
    solution = [torch.randn_like(t) for t in (r_x, r_y, r_z)]
    return (Q, G, A, *masks, *solution, r_x, r_y, r_z, r_lb, r_ub)


@both_backward
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(2, 1, 1, 0), (3, 5, 4, 0), (7, 12, 10, 3), (2, 40, 20, 8)], ids=str)
def test_backward_is_the_kkt_solution_and_its_outer_products(backward, size, dtype):
    args = at_random(system(*size, dtype=dtype))
    x, y, z = args[6:9]
    got = backward(*args, True, True, True)
    u = kkt_plain(*args[:6], *args[9:])
    cross = torch.einsum("bi,bj->bij", u.d_x, x)
    want = [*u[:5], -(cross + cross.mT) / 2]
    for multiplier, d in ((z, u.d_z), (y, u.d_y)):
        want.append(-torch.einsum("bi,bj->bij", multiplier, u.d_x) - torch.einsum("bi,bj->bij", d, x))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    for name, a, b in zip(got._fields, got, want, strict=False):
        scale = 1 + float(b.abs().max()) if b.numel() else 1
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale, msg=name)


@both_backward
def test_backward_forms_what_is_wanted(backward):
    args = at_random(system(3, 6, 4, 2))
    full = backward(*args, True, True, True)
    for wants in ((False, False, False), (True, False, True), (False, True, False)):
        got = backward(*args, *wants)
        for a, b, want in zip(got[5:8], full[5:8], wants, strict=True):
            assert torch.equal(a, b) if want else a.shape == (3, 0, 0)
        assert all(torch.equal(a, b) for a, b in zip(got[:5], full[:5], strict=True))


@both_backward
def test_backward_of_a_contradictory_sample_is_least_squares(backward):
    Q, G, A, *masks, r_x, r_y, r_z, r_lb, r_ub = system(3, 8, 3, 2, bounds=False)
    clash = torch.tensor([[0.0], [1.0], [0.0]]).double()
    args = (Q, G, torch.cat([A, A], 1), *masks, r_x, torch.cat([r_y, r_y + clash], 1), r_z, r_lb, r_ub)
    args = at_random(args)
    got, u = backward(*args, True, True, True), kkt_plain(*args[:6], *args[9:])
    assert (got.error > 1e-2).tolist() == [False, True, False]
    torch.testing.assert_close(got.u_x, u.d_x, rtol=1e-7, atol=1e-7)
    want = -(got.u_x[:, :, None] * args[6][:, None] + args[6][:, :, None] * got.u_x[:, None]) / 2
    torch.testing.assert_close(got.grad_Q, want, rtol=1e-12, atol=1e-12)


def test_backward_vmap_shared_and_empty_batch():
    args = at_random(system(4, 6, 4, 2))
    want = ops.qp_backward(*args, True, True, True)
    got = torch.vmap(lambda *a: tuple(ops.qp_backward(*(t[None] for t in a), True, True, True)))(*args)
    assert all(torch.equal(a[:, 0], b) for a, b in zip(got, want, strict=True))
    shared = [t[:1].expand_as(t) for t in args[:3]]
    copied = [t.clone() for t in shared]
    one = ops.qp_backward(*shared, *args[3:], True, True, True)
    two = ops.qp_backward(*copied, *args[3:], True, True, True)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert ops.qp_backward(*(t[:0] for t in args), True, True, True).grad_G.shape == (0, 4, 6)


# -- near a degenerate vertex ----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("size", [1e-7, 1e-8, 1e-9, 1e-11])
def test_nearly_degenerate_vertices(solve, size):
    """One tight row more than there are variables, but for an offset of `size`: complementarity must not run ahead."""
    batch, n, k = 40, 24, 14
    tight = n - k + 1
    A, x = torch.rand(batch, k, n, dtype=torch.float64), torch.rand(batch, n, dtype=torch.float64)
    x[:, :tight] = 0
    z = torch.zeros_like(x)
    z[:, :tight] = 1.5 * torch.rand(batch, tight, dtype=torch.float64)
    z[:, 0] *= 1e-2
    y = torch.randn(batch, k, dtype=torch.float64)
    p = z - 0.1 * x - (A.mT @ y[..., None])[..., 0]
    b = (A @ (x + size * torch.rand_like(x))[..., None])[..., 0]
    Q = (0.1 * torch.eye(n, dtype=torch.float64)).expand(batch, n, n)
    problem = [Q, p, p.new_zeros(batch, 0, n), p.new_zeros(batch, 0), A, b, torch.zeros_like(p), p.new_zeros(batch, 0)]
    r = solve(*problem, eps=1e-9)
    assert (r.status == Status.SOLVED).all()
    assert kkt_residual(problem, r) < 2e-9
