"""Fixed points and the choice of adjoint."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

F64 = torch.float64


def tanh_map(x, a, W):
    return torch.tanh(x @ W.T) + a


@pytest.fixture
def problem():
    W = torch.randn(4, 4, dtype=F64)
    return torch.zeros(3, 4, dtype=F64), torch.randn(3, 4, dtype=F64), 0.6 * W / torch.linalg.matrix_norm(W, 2)


def grads(problem, **options):
    init, a, W = problem
    a, W = a.clone().requires_grad_(), W.clone().requires_grad_()
    x = ol.fixed_point(tanh_map, init, (a, W), **options).x
    return torch.autograd.grad(x.pow(2).sum(), (a, W))


def test_value_status_and_residual(problem):
    init, a, W = problem
    solution = ol.fixed_point(tanh_map, init, (a, W), solver=ol.Picard(batch_ndim=1))
    torch.testing.assert_close(solution.x, tanh_map(solution.x, a, W), rtol=0, atol=1e-9)
    assert solution.status.tolist() == [ol.Status.SOLVED] * 3
    assert solution.residuals.shape == (3, 1) and solution.residuals.max() < 1e-10
    cosine = ol.fixed_point(lambda x, t: x.cos() + t, torch.tensor(1.0, dtype=F64), (torch.tensor(0.0, dtype=F64),))
    assert cosine.x.item() == pytest.approx(0.7390851332, abs=1e-9)


def test_implicit_equals_unrolling_to_convergence(problem):
    torch.testing.assert_close(grads(problem), grads(problem, adjoint=ol.Unroll()), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3])
def test_one_step_is_a_truncated_neumann_series(problem, steps):
    exact_series = grads(problem, adjoint=ol.Implicit(ol.linear_solve.Neumann(steps - 1)))
    for adjoint in (ol.OneStep(steps), ol.Unroll(steps)):
        torch.testing.assert_close(grads(problem, adjoint=adjoint), exact_series, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "adjoint", [ol.Implicit(), ol.Implicit(ol.linear_solve.LU(batch_ndim=1)), ol.Unroll()], ids=["auto", "lu", "unroll"]
)
def test_gradcheck(problem, adjoint):
    init, a, W = problem
    init, a, W = init[:2, :3], a[:2, :3], 0.4 * W[:3, :3]

    def f(a, W):
        return ol.fixed_point(tanh_map, init, (a, W), solver=ol.Picard(rtol=1e-13), adjoint=adjoint).x

    inputs = (a.requires_grad_(), W.requires_grad_())
    assert gradcheck(f, inputs, check_forward_ad=True)
    assert gradgradcheck(f, inputs)


def test_module_in_the_closure():
    linear = nn.Linear(4, 4, dtype=F64)
    with torch.no_grad():
        linear.weight.mul_(0.5)
    a = torch.randn(3, 4, dtype=F64)
    both = []
    for adjoint in (ol.Implicit(), ol.Unroll()):
        x = ol.fixed_point(lambda x, a: torch.tanh(linear(x) + a), torch.zeros_like(a), (a,), adjoint=adjoint).x
        both.append(torch.autograd.grad(x.sum(), list(linear.parameters())))
    torch.testing.assert_close(*both, rtol=1e-7, atol=1e-9)


def test_a_sample_that_diverges_leaves_the_others_alone():
    a = torch.tensor([[0.3], [5.0], [0.4]], dtype=F64, requires_grad=True)
    solver = ol.Picard(batch_ndim=1, max_steps=200)

    def fn(x, a):
        return a * x + 1  # a fixed point 1 / (1 - a), repelling for a = 5

    with pytest.raises(ol.SolveError, match=r"1 of 3 samples not solved.*sample 1"):
        ol.fixed_point(fn, torch.zeros(3, 1, dtype=F64), (a,), solver=solver)
    solution = ol.fixed_point(fn, torch.zeros(3, 1, dtype=F64), (a,), solver=solver, throw=False)
    assert solution.status[1] != ol.Status.SOLVED and solution.x[1].isnan().all()
    good = solution.x[[0, 2]]
    torch.testing.assert_close(good, 1 / (1 - a[[0, 2]]), rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(good.sum(), a)
    want = torch.where(a > 1, 0.0, (1 - a) ** -2)
    torch.testing.assert_close(gradient, want.detach(), rtol=1e-8, atol=1e-9)


def test_vmap_and_compile_equal_eager(problem):
    _, a, W = problem

    def f(a):
        start, solver = torch.zeros(4, dtype=F64), ol.Picard(max_steps=15, rtol=1e-2)
        return ol.fixed_point(lambda x, a, W: torch.tanh(W @ x) + a, start, (a, W), solver=solver).x

    one_by_one = torch.stack([f(row) for row in a])
    torch.testing.assert_close(torch.vmap(f)(a), one_by_one)
    row = a[0].clone().requires_grad_()
    compiled = torch.compile(lambda a: f(a).sum(), fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(row), row)
    torch.testing.assert_close(got, torch.autograd.grad(f(row).sum(), row))


def test_float32_and_bad_arguments(problem):
    init, a, W = (t.float() for t in problem)
    assert ol.fixed_point(tanh_map, init, (a, W)).x.dtype == torch.float32
    with pytest.raises(ValueError, match="adjoint is 'implicit'"):
        ol.fixed_point(tanh_map, init, (a, W), adjoint="implicit")
    with pytest.raises(ValueError, match="damping"):
        ol.fixed_point(tanh_map, init, (a, W), solver=ol.Picard(damping=0))
