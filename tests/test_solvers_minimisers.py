"""Minimisers: what they find, and that it is differentiable through the optimality residual they name."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

F64 = torch.float64
BATCH = {"batch_ndim": 1}


def clip(x, step=None):
    return x.clamp(-0.3, 0.4)


def soft(x, step):
    return x.sign() * (x.abs() - 0.5 * step).clamp(min=0)


def softmax(x):
    return x.softmax(-1)


class Case(NamedTuple):
    solver: object
    domain: str = "all"
    tol: float = 1e-7

    def __str__(self):
        return f"{type(self.solver).__name__}-{self.domain}"

    def start(self, like):
        return torch.full_like(like, 1 / like.shape[-1] if self.domain == "simplex" else 0.1)


CASES = [
    Case(ol.GradientDescent(**BATCH)),
    Case(ol.GradientDescent(acceleration=True, **BATCH)),
    Case(ol.LBFGS(**BATCH)),
    Case(ol.LBFGS(2, **BATCH)),
    Case(ol.ProjectedGradient(clip, **BATCH), "box"),
    Case(ol.ProjectedGradient(clip, acceleration=False, **BATCH), "box"),
    Case(ol.LBFGSB(-0.3, 0.4, **BATCH), "box"),
    Case(ol.BlockCoordinateDescent(clip, **BATCH), "box"),
    Case(ol.ProjectedGradient(ol.projection.simplex, **BATCH), "simplex"),
    Case(ol.MirrorDescent(softmax, **BATCH), "simplex"),
    Case(ol.ProximalGradient(soft, **BATCH), "l1"),
    Case(ol.BlockCoordinateDescent(soft, **BATCH), "l1"),
]


def quadratic(x, H, p):
    return 0.5 * torch.einsum("...i,...ij,...j->...", x, H, x) + (p * x).sum(-1)


@pytest.fixture
def data():
    M = torch.randn(3, 8, 4, dtype=F64)
    return M.mT @ M / 8 + 0.3 * torch.eye(4, dtype=F64), torch.randn(3, 4, dtype=F64)


def oracle(domain, H, p):
    n = p.shape[-1]
    one = torch.ones(n, dtype=p.dtype)
    if domain == "all":
        return -torch.linalg.solve(H, p)
    if domain == "box":
        return ol.solve_qp(H, p, lb=-0.3 * one, ub=0.4 * one).x
    if domain == "simplex":
        return ol.solve_qp(H, p, A=one[None], b=one[:1], lb=0 * one).x
    # x = u - v with u, v >= 0
    split = torch.cat([torch.eye(n, dtype=p.dtype), -torch.eye(n, dtype=p.dtype)], -1)
    Q, q = split.mT @ H @ split, torch.cat([p, -p], -1) + 0.5
    return (split @ ol.solve_qp(Q, q, lb=torch.zeros(2 * n, dtype=p.dtype)).x[..., None])[..., 0]


def minimise(solver, objective, init, *args, optimality=None):
    @ol.custom_root(optimality or solver.optimality(objective))
    def solve(init, *args):
        x, status, _, _ = solver(lambda x: objective(x, *args), init)
        assert status.eq(0).all()
        return x

    return solve(init, *args)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_minimum_and_its_derivative(case, data):
    H, p = (t.requires_grad_() for t in data)
    want = oracle(case.domain, H, p)
    got = minimise(case.solver, quadratic, case.start(p), H, p)
    torch.testing.assert_close(got, want, rtol=0, atol=case.tol)
    first = [torch.autograd.grad(x.pow(3).sum(), (H, p), create_graph=True) for x in (got, want)]
    symmetric = [(0.5 * (g[0] + g[0].mT), g[1]) for g in first]
    torch.testing.assert_close(*symmetric, rtol=0, atol=100 * case.tol)
    second = [torch.autograd.grad(g[1].square().sum(), p)[0] for g in first]
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e3 * case.tol)


@pytest.mark.parametrize("case", [CASES[i] for i in (2, 4, 9, 10)], ids=str)
def test_gradcheck(case, data):
    H, p = data[0][:1, :3, :3], data[1][:1, :3].clone().requires_grad_()
    solver = replace(case.solver, rtol=1e-12)

    def solve(p):
        return minimise(solver, quadratic, case.start(p), H, p)

    assert gradcheck(solve, p, check_forward_ad=True)
    assert gradgradcheck(solve, p)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_samples_are_strangers(case, data):
    H, p = data
    start = case.start(p)
    start[1] = oracle(case.domain, H, p)[1]
    x, status, steps, residuals = case.solver(lambda x: quadratic(x, H, p), start)
    assert len(set(steps.tolist())) > 1 and residuals.shape == (3, 1)
    for i in range(3):
        rows = slice(i, i + 1)
        alone = case.solver(lambda x, rows=rows: quadratic(x, H[rows], p[rows]), start[rows])
        torch.testing.assert_close((x[rows], status[rows]), alone[:2], rtol=1e-9, atol=1e-11)
    p = p.clone()
    p[1] = torch.nan
    ill, status, _, _ = case.solver(lambda x: quadratic(x, H, p), start)
    assert status.tolist() == [0, ol.Status.NUMERICAL_ERROR, 0]
    torch.testing.assert_close(ill[[0, 2]], x[[0, 2]], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtypes_scales_shapes_and_no_steps(case, data):
    H, p = data
    want, start = oracle(case.domain, H, p), case.start(p)
    single, status, _, _ = case.solver(lambda x: quadratic(x, H.float(), p.float()), start.float())
    assert single.dtype == torch.float32 and status.eq(0).all()
    torch.testing.assert_close(single, want.float(), rtol=0, atol=2e-3)
    if case.domain != "l1":  # there the scale of the smooth part is part of the problem
        for scale in (1e-6, 1e6):
            x, status, _, _ = case.solver(lambda x, s=scale: s * quadratic(x, H, p), start)
            assert status.eq(0).all()
            torch.testing.assert_close(x, want, rtol=0, atol=1e-6)
    x, status, _, _ = replace(case.solver, batch_ndim=0)(lambda x: quadratic(x, H[0], p[0]), start[0])
    assert status.shape == ()
    torch.testing.assert_close(x, want[0], rtol=0, atol=case.tol)
    _, status, steps, _ = replace(case.solver, max_steps=0)(lambda x: quadratic(x, H, p), start)
    assert status.eq(int(ol.Status.MAX_STEPS)).all() and steps.eq(0).all()
    x, status, _, _ = case.solver(lambda x: quadratic(x, H[:0], p[:0]), start[:0])
    assert x.shape == (0, 4) and status.shape == (0,)


@pytest.mark.parametrize(
    "case", [Case(ol.GradientDescent()), Case(ol.LBFGS(3)), Case(ol.LBFGSB(-0.3, 0.4, 3), "box")], ids=str
)
def test_vmap_is_a_loop(case, data):
    H, p = data
    solver = replace(case.solver, max_steps=4)

    def solve(H, p):
        return solver(lambda x: quadratic(x, H, p), case.start(p))[0]

    want = torch.stack([solve(*pair) for pair in zip(H, p, strict=True)])
    torch.testing.assert_close(torch.vmap(solve)(H, p), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "solver",
    [
        ol.GradientDescent(step_size=0.1, max_steps=3, **BATCH),
        ol.ProximalGradient(soft, step_size=0.1, max_steps=3, **BATCH),
        ol.MirrorDescent(softmax, step_size=0.1, max_steps=3, **BATCH),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_fixed_steps_compile(solver, data):
    H, p = data

    def solve(p):
        return solver(lambda x: quadratic(x, H, p), torch.full_like(p, 0.25))[:3]

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(solve, fullgraph=True, backend="aot_eager")(p), solve(p))


@pytest.mark.parametrize("solver", [ol.LBFGS(**BATCH), ol.LBFGSB(-10.0, 10.0, **BATCH)], ids=["lbfgs", "lbfgsb"])
def test_curved_valleys_and_domains(solver):
    def rosenbrock(x):
        return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(-1)

    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [3.0, -4.0]], dtype=F64)
    x, status, steps, _ = solver(rosenbrock, start)
    assert status.eq(0).all() and steps.max() < 80
    torch.testing.assert_close(x, torch.ones_like(x), rtol=0, atol=1e-8)

    def barrier(x):  # infinite, then NaN, beyond x = 0
        return (x - 0.01 * x.log()).sum(-1)

    x, status, _, _ = solver(barrier, torch.tensor([[5.0, 1e-3]], dtype=F64))
    assert status.eq(0).all()
    torch.testing.assert_close(x, torch.full_like(x, 0.01), rtol=0, atol=1e-9)


def test_the_step_size_does_not_enter_the_gradient(data):
    H, p = data[0], data[1].requires_grad_()
    grads = []
    for step in (None, 0.05, 0.2):
        x = minimise(
            ol.ProjectedGradient(clip, step_size=step, rtol=1e-12, **BATCH), quadratic, torch.zeros_like(p), H, p
        )
        grads.append(torch.autograd.grad(x.pow(2).sum(), p)[0])
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(grads[2], grads[0], rtol=0, atol=1e-9)


def test_parameters_of_the_set_get_their_gradient(data):
    H, p = data[0][:1], data[1][:1]
    radius = torch.tensor(1.5, dtype=F64, requires_grad=True)
    upper = torch.tensor([0.1, 0.2, 0.3, 5.0], dtype=F64, requires_grad=True)

    def on_simplex(radius):
        solver = ol.ProjectedGradient(lambda x: ol.projection.simplex(x, radius), rtol=1e-12, **BATCH)
        return minimise(solver, quadratic, torch.ones_like(p), H, p)

    def in_box(upper):
        return minimise(ol.LBFGSB(-0.3, upper, rtol=1e-12, **BATCH), quadratic, torch.zeros_like(p), H, p)

    assert gradcheck(on_simplex, radius) and gradgradcheck(on_simplex, radius)
    assert gradcheck(in_box, upper)


def test_frank_wolfe_on_a_ball_and_on_a_simplex():
    c = torch.tensor([[3.0, 1.0, 0.0], [0.2, 0.1, 0.1], [0.0, -2.0, 1.0]], dtype=F64, requires_grad=True)

    def objective(x, c):
        return 0.5 * (x - c).square().sum(-1)

    def to_sphere(x):
        return -torch.nn.functional.normalize(x, dim=-1)

    def to_ball(x):
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1)

    on_ball = ol.FrankWolfe(to_sphere, to_ball, rtol=1e-11, **BATCH)
    for rows, tol in ((slice(0, None, 2), 1e-5), (slice(1, 2), 1e-4)):  # outside of the ball, and inside
        solver = on_ball if rows.step else replace(on_ball, rtol=1e-9)
        x = minimise(solver, objective, torch.zeros_like(c[rows]), c[rows])
        torch.testing.assert_close(x, to_ball(c[rows]), rtol=0, atol=tol)
        got, want = (torch.autograd.grad(y.pow(3).sum(), c)[0] for y in (x, to_ball(c[rows])))
        torch.testing.assert_close(got, want, rtol=0, atol=10 * tol)

    def vertex(gradient):
        return torch.nn.functional.one_hot(gradient.argmin(-1), 3).to(gradient)

    start = torch.full_like(c, 1 / 3)
    x, status, _, gap = ol.FrankWolfe(vertex, rtol=1e-2, **BATCH)(lambda x: objective(x, c.detach()), start)
    least = objective(ol.projection.simplex(c), c)
    assert status.eq(0).all() and (objective(x, c) - least <= gap[:, 0] * (1 + least) + 1e-12).all()


def test_trees_and_history():
    def objective(x, c):
        return (x["a"] - c).square().sum((-2, -1)) + (x["b"][0] - x["a"].sum((-2, -1))).square()

    c = torch.randn(2, 2, 3, dtype=F64, requires_grad=True)
    start = {"a": torch.zeros(2, 2, 3, dtype=F64), "b": (torch.zeros(2, dtype=F64),)}
    identity = ol.ProximalGradient(lambda x, step: x, **BATCH)
    for solver in (ol.LBFGS(**BATCH), identity, ol.BlockCoordinateDescent(lambda x, step: x, **BATCH)):
        x = minimise(solver, objective, start, c)
        torch.testing.assert_close(x["a"], c, rtol=0, atol=1e-7)
        torch.testing.assert_close(x["b"][0], c.sum((1, 2)), rtol=0, atol=1e-7)
        (gradient,) = torch.autograd.grad(x["b"][0].sum(), c)
        torch.testing.assert_close(gradient, torch.ones_like(c), rtol=0, atol=1e-7)
    run = identity.run(lambda x: objective(x, c.detach()), start, record=lambda state: state.error)
    assert run.history.shape == (int(run.steps.max()) + 1, 2) and (run.history[-1] < 1e-9).all()


# -- nonlinear least squares ----------------------------------------------------------------------------------------

LEAST_SQUARES = [ol.GaussNewton(**BATCH), ol.LevenbergMarquardt(**BATCH)]
name = pytest.mark.parametrize("solver", LEAST_SQUARES, ids=lambda solver: type(solver).__name__)


@name
def test_least_squares_is_differentiated_with_the_exact_hessian(solver):
    a = torch.tensor([[2.0], [-1.0]], dtype=F64, requires_grad=True)
    # Two residuals with a remainder: minimizing (a - x)^4 / 2 + c^2 / 2 about x, whose Gauss-Newton Hessian is not it.
    x = minimise(solver, lambda x, a: torch.cat([(a - x) ** 2 + 1, x - a], -1), torch.zeros_like(a), a)
    torch.testing.assert_close(x, a, rtol=0, atol=1e-8)
    (slope,) = torch.autograd.grad(x.sum(), a)
    torch.testing.assert_close(slope, torch.ones_like(a), rtol=0, atol=1e-7)


@name
def test_least_squares_fits_and_gradchecks(solver):
    t = torch.linspace(0, 1, 3, dtype=F64)
    y = (2 * torch.exp(-1.5 * t) + 0.1 * torch.randn(1, 3, dtype=F64)).requires_grad_()
    tight = replace(solver, rtol=1e-13)

    def fit(x, y):
        return {"data": x[:, :1] * torch.exp(-x[:, 1:] * t) - y, "prior": (0.1 * x,)}

    def solve(y):
        return minimise(tight, fit, torch.ones(1, 2, dtype=F64), y)

    def loss(x, y):
        return 0.5 * (fit(x, y)["data"].square().sum(-1) + 0.01 * x.square().sum(-1))

    want = minimise(ol.LBFGS(rtol=1e-12, **BATCH), loss, torch.ones(1, 2, dtype=F64), y)
    torch.testing.assert_close(solve(y), want, rtol=0, atol=1e-8)
    assert gradcheck(solve, y, check_forward_ad=True)
    assert gradgradcheck(solve, y)


@name
def test_least_squares_on_hard_ground(solver):
    def rosenbrock(x):
        return torch.stack([10 * (x[:, 1] - x[:, 0] ** 2), 1 - x[:, 0]], -1)

    start = torch.tensor([[-1.2, 1.0], [3.0, -4.0]], dtype=F64)
    x, status, steps, _ = solver(rosenbrock, start)
    assert status.eq(0).all()
    torch.testing.assert_close(x, torch.ones_like(x), rtol=0, atol=1e-9)
    alone, _, alone_steps, _ = solver(rosenbrock, start[1:])
    torch.testing.assert_close(x[1:], alone, rtol=1e-12, atol=0)
    assert steps[1] == alone_steps and steps[0] != steps[1]
    # One equation in two unknowns, and one unknown that does not matter: the Jacobian never has full rank.
    x, status, _, _ = solver(lambda x: x[:, :1] ** 2 - 2, torch.ones(1, 2, dtype=F64))
    assert status.eq(0).all() and abs(x[0, 0] - 2**0.5) < 1e-9 and x[0, 1] == 1
    _, status, _, _ = solver(lambda x: x * torch.tensor([[1.0], [torch.nan]], dtype=F64), torch.ones(2, 1, dtype=F64))
    assert status.tolist() == [0, ol.Status.NUMERICAL_ERROR]
    _, status, _, _ = solver(lambda x: torch.exp(-x), torch.zeros(1, 1, dtype=F64))  # decreases for ever
    assert status.item() != ol.Status.SOLVED


def test_unbounded_objectives_are_not_solved():
    for solver in (
        ol.LBFGS(max_steps=50),
        ol.GradientDescent(max_steps=50),
        ol.LBFGSB(-torch.inf, torch.inf, max_steps=50),
    ):
        _, status, _, _ = solver(lambda x: x.sum(), torch.zeros(2, dtype=F64))
        assert status != ol.Status.SOLVED


def test_bad_arguments_are_named():
    x = torch.zeros(2, 3, dtype=F64)
    with pytest.raises(ValueError, match=r"LBFGS: the objective returned a tensor of shape \(3,\); expected \(2,\)"):
        ol.LBFGS(**BATCH)(lambda x: x.sum(0), x)
    with pytest.raises(ValueError, match="LBFGS: memory is 0"):
        ol.LBFGS(0)(lambda x: x.sum(), x)
    with pytest.raises(ValueError, match="LBFGSB: memory is 0"):
        ol.LBFGSB(0.0, 1.0, 0)(lambda x: x.sum(), x)
    with pytest.raises(ValueError, match=r"LBFGSB: lower is 1.0, above upper, 0.0"):
        ol.LBFGSB(1.0, 0.0)(lambda x: x.sum(), x)
    with pytest.raises(ValueError, match="ProximalGradient: step_size is -1"):
        ol.ProximalGradient(soft, step_size=-1.0)(lambda x: x.sum(), x)
    with pytest.raises(ValueError, match="LevenbergMarquardt: damping is 0"):
        ol.LevenbergMarquardt(0.0)(lambda x: x, x)
    with pytest.raises(ValueError, match="FrankWolfe: optimality needs a projection"):
        ol.FrankWolfe(torch.sign).optimality(lambda x: x.sum())
