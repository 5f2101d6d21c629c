"""Optimal transport: against Sinkhorn's method and linear programming, and derivatives in all that poses it."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

F64 = torch.float64


def problem(*batch, n=5, m=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    cost, a, b = (torch.rand(*batch, *shape, dtype=F64, generator=generator) for shape in ((n, m), (n,), (m,)))
    a, b = a + 0.1, b + 0.1
    return cost, a, b * a.sum(-1, keepdim=True) / b.sum(-1, keepdim=True)


def sinkhorn(cost, a, b, epsilon, steps):
    """The textbook, in the log domain: the oracle."""
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    for _ in range(steps):
        f = epsilon * (a.log() - torch.logsumexp((g[..., None, :] - cost) / epsilon, -1))
        g = epsilon * (b.log() - torch.logsumexp((f[..., None] - cost) / epsilon, -2))
    return torch.exp((f[..., None] + g[..., None, :] - cost) / epsilon)


@pytest.mark.parametrize(("n", "m"), [(5, 4), (4, 5), (6, 6), (1, 3)])
@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_equals_sinkhorn_iterations_and_their_unrolled_gradient(n, m, epsilon):
    data = [value.requires_grad_() for value in problem(3, n=n, m=m)]
    plan, want = ol.OptimalTransport(epsilon)(*data), sinkhorn(*data, epsilon, 500)
    torch.testing.assert_close(plan, want, rtol=0, atol=1e-10)
    torch.testing.assert_close(plan.sum(-1), data[1], rtol=1e-12, atol=0)
    grads = [torch.autograd.grad((value**2).sum(), data[0])[0] for value in (plan, want)]
    torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-9)


def test_first_and_second_derivatives():
    epsilon = torch.tensor(0.2, dtype=F64, requires_grad=True)

    def plan(cost, a, b, epsilon):
        return ol.OptimalTransport(epsilon)(cost, a, b)

    for n, m in ((4, 3), (2, 3)):
        leaves = [value.requires_grad_() for value in problem(n=n, m=m)]
        assert gradcheck(plan, (*leaves, epsilon), check_forward_ad=True)
        assert gradgradcheck(plan, (*leaves, epsilon))


def test_small_epsilon_gives_an_assignment():
    cost = torch.rand(4, 12, 12, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for dtype in (F64, torch.float32):
        plan = ol.OptimalTransport(1e-6)(cost.to(dtype))
        for one, matrix in zip(plan, cost.detach(), strict=True):
            rows, columns = linear_sum_assignment(matrix.numpy())
            want = torch.zeros(12, 12, dtype=dtype)
            want[rows, columns] = 1 / 12
            torch.testing.assert_close(one, want, rtol=0, atol=1e-6)
        assert torch.autograd.grad((plan**2).sum(), cost)[0].isfinite().all()
    flat = ol.OptimalTransport(1e-9)(torch.zeros(3, 2, dtype=F64))  # all plans cost the same: the most even one
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 6))


@pytest.mark.parametrize(("n", "range_", "even"), [(50, 1e4, True), (20, 1e4, True), (3, 1e3, False), (5, 1e4, False)])
def test_search_gets_over_the_long_flats_of_a_small_epsilon(n, range_, even):
    """Between two bends the dual is linear to rounding: short steps would take forever."""
    cost, a, b = problem(8, n=n, m=n, seed=3)
    masses = (None, None) if even else (a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True))
    found = ol.OptimalTransport(1 / range_)(cost, *masses)
    want = [torch.full_like(a, 1 / n)] * 2 if even else masses
    for sums, mass in zip((found.sum(-1), found.sum(-2)), want, strict=True):
        torch.testing.assert_close(sums, mass, rtol=0, atol=1e-11)


def test_zero_masses_and_forbidden_pairs():
    cost, a, b = problem(n=4, m=4)
    a, b = a.index_fill(0, torch.tensor([1]), 0.0), b.index_fill(0, torch.tensor([2]), 0.0)
    b = b * a.sum() / b.sum()
    cost[0, 3] = torch.inf
    cost, a, b = (value.requires_grad_() for value in (cost, a, b))
    layer = ol.OptimalTransport(0.2)
    plan = layer(cost, a, b)
    assert (plan[1] == 0).all() and (plan[:, 2] == 0).all() and plan[0, 3] == 0
    torch.testing.assert_close(plan.sum(0), b, rtol=0, atol=1e-11)
    grads = torch.autograd.grad((plan**2).sum(), (cost, a, b))
    assert all(grad.isfinite().all() for grad in grads)
    weight = torch.rand(4, 4, dtype=F64)
    slope = torch.autograd.grad((weight * layer(cost, a, b)).sum(), b)[0][2]
    step = 1e-6
    up = b.detach() + step * torch.eye(4, dtype=F64)[2]
    difference = (weight * (layer(cost, a, up) - plan)).sum().item() / step
    assert slope.item() == pytest.approx(difference, rel=1e-3, abs=1e-5)  # one-sided


def test_batches_transforms_and_shared_arguments():
    cost, a, b = problem(2, 3)
    layer = ol.OptimalTransport(0.1)
    together = layer(cost, a, b)
    one_by_one = torch.stack(
        [torch.stack([layer(*row) for row in zip(*plane, strict=True)]) for plane in zip(cost, a, b, strict=True)]
    )
    torch.testing.assert_close(together, one_by_one, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.vmap(torch.vmap(layer))(cost, a, b), one_by_one, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer(cost.mT.contiguous().mT, a, b), together)
    assert layer(cost[:0], a[:0], b[:0]).shape == (0, 3, 5, 4)

    learned = ol.OptimalTransport(nn.Parameter(torch.tensor([0.1, 0.5, 1.0], dtype=F64)))
    torch.testing.assert_close(learned(cost, a, b)[:, 2], ol.OptimalTransport(1.0)(cost[:, 2], a[:, 2], b[:, 2]))
    assert list(learned.state_dict()) == ["epsilon"]

    shared, each = a[0, 0].clone().requires_grad_(), a[:1, :1].expand(2, 3, 5).clone().requires_grad_()
    b = b / b.sum(-1, keepdim=True) * shared.sum().detach()
    (of_shared,) = torch.autograd.grad((layer(cost, shared, b) ** 2).sum(), shared)
    (of_each,) = torch.autograd.grad((layer(cost, each, b) ** 2).sum(), each)
    torch.testing.assert_close(of_shared, of_each.sum((0, 1)))


def test_compiled_equals_eager_and_float32():
    cost, a, b = problem(2)
    layer, cost = ol.OptimalTransport(0.1), cost.requires_grad_()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    grads = [torch.autograd.grad((f(cost, a, b) ** 2).sum(), cost)[0] for f in (compiled, layer)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)
    single = layer(cost.float(), a.float(), b.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), layer(cost, a, b), rtol=1e-4, atol=1e-6)


def test_failures_leave_the_others_alone():
    cost, a, b = problem(4)
    a[1, 0], cost[2, 0, 0] = -1.0, torch.nan
    b[3] *= 2
    cost.requires_grad_()
    with pytest.raises(ol.SolveError, match=r"OptimalTransport: 3 of 4 samples not solved.*INVALID_INPUT"):
        ol.OptimalTransport(0.1)(cost, a, b)
    solution = ol.OptimalTransport(0.1, throw=False).solve(cost, a, b)
    assert solution.status.tolist() == [0, *[ol.Status.INVALID_INPUT] * 3]
    assert solution.x[1:].isnan().all()
    torch.testing.assert_close(solution.x[0], ol.OptimalTransport(0.1)(cost[0], a[0], b[0]))
    (gradient,) = torch.autograd.grad((solution.x[0] ** 2).sum(), cost)
    assert gradient[0].abs().sum() > 0 and (gradient[1:] == 0).all()
    short = ol.OptimalTransport(0.01, max_steps=2, throw=False).solve(*problem())
    assert short.status == ol.Status.MAX_STEPS and short.x.isnan().all()
    blocked = torch.full((3, 3), torch.inf, dtype=F64)
    assert ol.OptimalTransport(0.1, throw=False).solve(blocked).status != ol.Status.SOLVED


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ol.OptimalTransport(0.0), "epsilon is 0.0; expected a positive number"),
        (lambda: ol.OptimalTransport()(torch.zeros(3)), r"cost has shape \(3,\); expected \(\*, n, m\)"),
        (lambda: ol.OptimalTransport()(torch.zeros(3, 2), torch.ones(2)), "a has shape .*as cost has 3 rows"),
        (lambda: ol.OptimalTransport()(torch.zeros(3, 2), b=torch.ones(2).double()), "b has dtype torch.float64"),
        (lambda: ol.OptimalTransport()(torch.zeros(3, 0)), "expected at least one row and one column"),
    ],
)
def test_malformed_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
