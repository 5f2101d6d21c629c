"""Solvers of fixed points and roots, and `ol.root`."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

F64 = torch.float64
TIGHT = {"rtol": 1e-13, "batch_ndim": 1}


def contraction(batch=3, n=4, factor=0.6):
    W = torch.randn(n, n, dtype=F64)
    return (
        torch.zeros(batch, n, dtype=F64),
        torch.randn(batch, n, dtype=F64),
        factor * W / torch.linalg.matrix_norm(W, 2),
    )


def tanh_map(x, a, W):
    return torch.tanh(x @ W.mT) + a


def equation(x, a, W):
    return x - tanh_map(x, a, W)


def cubic(x, c):
    return x**3 + x - c


FIXED_POINT = [
    ol.Picard(**TIGHT),
    ol.Picard(0.7, **TIGHT),
    ol.Anderson(**TIGHT),
    ol.Anderson(1, **TIGHT),
    ol.Broyden(**TIGHT),
    ol.Broyden(5, **TIGHT),
    ol.Newton(**TIGHT),
]
ROOT = [ol.Newton(**TIGHT), ol.Broyden(**TIGHT), ol.Bisection(-3.0, 3.0, **TIGHT)]


def name(solver):
    return type(solver).__name__


@pytest.mark.parametrize("solver", FIXED_POINT, ids=name)
def test_fixed_points_and_their_gradients(solver):
    init, a, W = contraction()

    def solve(a, W, solver=solver, adjoint=ol.Implicit()):
        return ol.fixed_point(tanh_map, init, (a, W), solver=solver, adjoint=adjoint).x

    x = solve(a, W)
    torch.testing.assert_close(x, tanh_map(x, a, W), rtol=0, atol=1e-12)
    inputs = (a.requires_grad_(), W.requires_grad_())
    assert gradcheck(solve, inputs, check_forward_ad=True)
    want = torch.autograd.grad(solve(a, W, FIXED_POINT[0]).pow(3).sum(), inputs)
    for adjoint in (ol.Implicit(), ol.Unroll()):
        got = torch.autograd.grad(solve(a, W, adjoint=adjoint).pow(3).sum(), inputs)
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("solver", ROOT, ids=name)
def test_roots_and_their_derivatives(solver):
    c = torch.tensor([[0.3, -1.0], [2.0, 0.1]], dtype=F64, requires_grad=True)

    def solve(c):
        return ol.root(cubic, torch.zeros(2, 2, dtype=F64), (c,), solver=solver).x

    torch.testing.assert_close(cubic(solve(c), c), torch.zeros_like(c), rtol=0, atol=1e-12)
    assert gradcheck(solve, c, check_forward_ad=True)
    assert gradgradcheck(solve, c)
    x = solve(c)
    slope = 1 / (3 * x**2 + 1)
    (first,) = torch.autograd.grad(x.sum(), c, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), c)
    torch.testing.assert_close(first, slope)
    torch.testing.assert_close(second, -6 * x * slope**3)


@pytest.mark.parametrize("solver", [*FIXED_POINT, *ROOT], ids=name)
def test_each_sample_is_solved_as_if_alone(solver):
    if solver in FIXED_POINT:
        init, a, W = contraction(5)
        init[3] = 30.0
        args = (a * torch.tensor([0.0, 0.01, 1.0, 3.0, 1.0], dtype=F64)[:, None], W)
        problem = equation if isinstance(solver, ol.solvers.RootSolver) else tanh_map
    else:
        args = (torch.tensor([[0.0], [0.5], [9.0], [-1.0]], dtype=F64),)
        init, problem = torch.tensor([[0.0], [0.1], [4.0], [1.0]], dtype=F64), cubic

    def run(rows):
        return solver(lambda x: problem(x, args[0][rows], *args[1:]), init[rows])

    together = run(slice(None))
    assert len(set(together[2].tolist())) > 1  # they stop at different steps
    for i in range(len(init)):
        alone = run(slice(i, i + 1))
        torch.testing.assert_close([part[i : i + 1] for part in together], list(alone), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("solver", [*FIXED_POINT, ROOT[0], ROOT[1]], ids=name)
def test_a_nan_sample_fails_alone(solver):
    init, a, W = contraction()
    a[1] = torch.nan
    a.requires_grad_()
    solution = ol.fixed_point(tanh_map, init, (a, W), solver=solver, throw=False)
    assert solution.status.tolist() == [ol.Status.SOLVED, ol.Status.NUMERICAL_ERROR, ol.Status.SOLVED]
    assert solution.x[1].isnan().all()
    good = [0, 2]
    torch.testing.assert_close(solution.x[good], tanh_map(solution.x, a, W)[good], rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(solution.x[good].sum(), a)
    assert gradient[1].eq(0).all() and gradient[good].isfinite().all()
    with pytest.raises(ol.SolveError, match=r"1 of 3 samples not solved.*NUMERICAL_ERROR.*sample 1"):
        ol.fixed_point(tanh_map, init, (a, W), solver=solver)


@pytest.mark.parametrize("kind", [ol.Picard, ol.Anderson, ol.Broyden, ol.Newton])
def test_vmap_no_samples_and_no_steps_at_all(kind):
    _, a, W = contraction()

    def solve(a):
        solver = kind(rtol=1e-3, max_steps=12)
        return ol.fixed_point(lambda x, a, W: torch.tanh(W @ x) + a, torch.zeros_like(a), (a, W), solver=solver).x

    torch.testing.assert_close(torch.vmap(solve)(a), torch.stack([solve(row) for row in a]), rtol=1e-12, atol=1e-13)
    solver = kind(max_steps=0, batch_ndim=1)
    solution = ol.fixed_point(tanh_map, torch.zeros_like(a), (a, W), solver=solver, throw=False)
    assert solution.status.eq(int(ol.Status.MAX_STEPS)).all() and solution.iterations.eq(0).all()
    nothing = ol.fixed_point(tanh_map, a[:0], (a[:0], W), solver=kind(batch_ndim=1))
    assert nothing.x.shape == (0, 4) and nothing.status.shape == (0,)


@pytest.mark.parametrize("kind", [ol.Picard, ol.Anderson, ol.Broyden])  # a line search makes graphs too large to test
def test_compiled_equals_eager(kind):
    _, a, W = contraction(1)

    def solve(a):
        solver = kind(rtol=0.3, max_steps=3)
        return ol.fixed_point(lambda x, a: torch.tanh(W @ x) + a, torch.zeros_like(a), (a,), solver=solver).x.sum()

    row = a[0].clone().requires_grad_()
    torch._dynamo.reset()  # a class in a closure is not among its guards
    got = torch.autograd.grad(torch.compile(solve, fullgraph=True, backend="aot_eager")(row), row)
    torch.testing.assert_close(got, torch.autograd.grad(solve(row), row))


@pytest.mark.parametrize("kind", [ol.Picard, ol.Anderson, ol.Broyden, ol.Newton])
def test_pytrees_dtypes_and_strides(kind):
    init, a, W = contraction()

    def both(x, a):
        u, v = x["u"], x["v"][0]
        return {"u": tanh_map(u, a, W), "v": (0.5 * torch.sin(v) + u.sum(-1),)}

    start = {"u": init, "v": (torch.zeros(3, dtype=F64),)}
    x = ol.fixed_point(both, start, (a.clone().requires_grad_(),), solver=kind(batch_ndim=1)).x
    torch.testing.assert_close(both(x, a), x, rtol=0, atol=1e-8)
    assert x["v"][0].requires_grad
    strided = ol.fixed_point(tanh_map, init, (a.mT.contiguous().mT, W), solver=kind(batch_ndim=1)).x
    torch.testing.assert_close(strided, ol.fixed_point(tanh_map, init, (a, W), solver=kind(batch_ndim=1)).x)
    single = ol.fixed_point(tanh_map, init.float(), (a.float(), W.float()), solver=kind(batch_ndim=1))
    assert single.x.dtype == single.residuals.dtype == torch.float32
    torch.testing.assert_close(single.x, strided.float(), rtol=1e-4, atol=1e-4)
    alone = ol.fixed_point(lambda x, a: torch.tanh(W @ x) + a, init[0], (a[0],), solver=kind())
    torch.testing.assert_close(alone.x, strided[0], rtol=0, atol=1e-8)
    assert alone.status.shape == () and alone.residuals.shape == (1,)


def test_anderson_converges_on_a_rotation_and_needs_few_steps():
    R = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)
    solution = ol.fixed_point(lambda x: R @ x + 1, torch.zeros(2, dtype=F64), solver=ol.Anderson())
    torch.testing.assert_close(solution.x, torch.tensor([0.0, 1.0], dtype=F64), rtol=0, atol=1e-9)
    assert solution.iterations <= 4
    M = torch.randn(200, 200, dtype=F64)
    M = 0.9 * (M + M.mT) / torch.linalg.matrix_norm(M + M.mT, 2)
    b = torch.randn(200, dtype=F64)
    steps = {}
    for solver in (ol.Picard(), ol.Anderson(10), ol.Broyden(40)):
        found = ol.fixed_point(lambda x: M @ x + b, torch.zeros_like(b), solver=solver)
        torch.testing.assert_close(found.x, torch.linalg.solve(torch.eye(200, dtype=F64) - M, b), rtol=0, atol=1e-6)
        steps[type(solver)] = found.iterations
    assert max(steps[ol.Anderson], steps[ol.Broyden]) < 0.5 * steps[ol.Picard]


def test_newton_is_quadratic_damps_its_steps_and_reports_a_singular_jacobian():
    far = ol.root(torch.atan, torch.tensor(10.0, dtype=F64))  # full steps diverge from here
    assert far.x.abs() < 1e-9 and far.iterations < 15
    errors = ol.Newton().run(lambda x: x.exp() - 2, torch.tensor([1.0], dtype=F64), record=lambda s: s.x).history
    errors = (errors - math.log(2)).abs().flatten()
    assert (errors[1:4] <= errors[:3] ** 2).all()
    for start in (1.0, -0.5):  # a triple root: linear convergence, to what rounding allows
        assert ol.root(lambda x: x**3, torch.tensor(start, dtype=F64)).x.abs() < 1e-9
    stuck = ol.root(
        lambda x: x**2 - 1, torch.tensor([[0.0], [3.0]], dtype=F64), solver=ol.Newton(batch_ndim=1), throw=False
    )
    assert stuck.status.tolist() == [ol.Status.NUMERICAL_ERROR, ol.Status.SOLVED] and stuck.x[0].isnan()
    none = ol.root(lambda x: x**2 + 1, torch.tensor([0.5], dtype=F64), throw=False)
    assert none.status != ol.Status.SOLVED


def test_bisection_checks_its_bracket():
    level = torch.tensor([[1.0], [2.0], [5.0], [0.0], [4.0]], dtype=F64)
    solver = ol.Bisection(0.0, 2.0, batch_ndim=1)
    solution = ol.root(lambda x, c: x**2 - c, torch.zeros_like(level), (level,), solver=solver, throw=False)
    assert solution.status.tolist() == [0, 0, ol.Status.INVALID_INPUT, 0, 0]
    torch.testing.assert_close(solution.x[[0, 1, 3, 4]], level[[0, 1, 3, 4]].sqrt(), rtol=0, atol=1e-9)
    with pytest.raises(ol.SolveError, match=r"sample 2.*sign change"):
        ol.root(lambda x, c: x**2 - c, torch.zeros_like(level), (level,), solver=solver)
    ends = ol.Bisection(torch.tensor([3.0, -1.0], dtype=F64), torch.tensor([1.0, 2.0], dtype=F64))
    assert ol.root(lambda x: x, torch.zeros(2, dtype=F64), solver=ends, throw=False).status == ol.Status.INVALID_INPUT


def test_jacobian_free_neumann_and_backward_iterations_agree():
    init, a, W = contraction()
    a.requires_grad_()

    def gradient(adjoint):
        x = ol.fixed_point(tanh_map, init, (a, W), solver=ol.Anderson(**TIGHT), adjoint=adjoint).x
        return torch.autograd.grad(x.pow(2).sum(), a)[0], x.detach()

    free, x = gradient(ol.Implicit(ol.linear_solve.Identity()))
    torch.testing.assert_close(free, gradient(ol.Implicit(ol.linear_solve.Neumann(0)))[0], rtol=0, atol=1e-12)
    for k in (1, 4):
        _, pull = torch.func.vjp(lambda x: tanh_map(x, a.detach(), W), x)
        u = 2 * x
        for _ in range(k):
            u = 2 * x + pull(u)[0]
        neumann = gradient(ol.Implicit(ol.linear_solve.Neumann(k)))[0]
        torch.testing.assert_close(neumann, u, rtol=0, atol=1e-12)


def test_the_gradient_does_not_depend_on_the_solver_nor_on_its_step_size():
    init, a, W = contraction()
    a.requires_grad_()
    want = None
    for solver in (ol.Picard(0.3, **TIGHT), ol.Picard(1.0, **TIGHT), ol.Newton(**TIGHT)):
        x = ol.fixed_point(tanh_map, init, (a, W), solver=solver).x
        (got,) = torch.autograd.grad(x.sum(), a)
        want = got if want is None else want
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)


def test_bad_arguments_are_named():
    x = torch.zeros(3, dtype=F64)
    with pytest.raises(ValueError, match=r"Newton: fn returned.*\(2,\).*\(3,\)"):
        ol.root(lambda x: x[:2], x)
    with pytest.raises(ValueError, match="Anderson: memory is 0"):
        ol.fixed_point(lambda x: x, x, solver=ol.Anderson(0))
    with pytest.raises(ValueError, match="Broyden: memory is 0"):
        ol.root(lambda x: x, x, solver=ol.Broyden(0))
    with pytest.raises(ValueError, match=r"Newton: init has dtype torch.float16"):
        ol.root(lambda x: x, x.half())
    with pytest.raises(ValueError, match="root: adjoint is OneStep"):
        ol.root(lambda x: x, x, adjoint=ol.OneStep())
    with pytest.raises(ValueError, match="root: solver is Picard"):
        ol.root(lambda x: x, x, solver=ol.Picard())
