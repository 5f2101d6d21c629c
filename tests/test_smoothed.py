"""adjoint=Smoothed(temperature): the exact solution with the derivative of the central path."""

import itertools

import pytest
import torch
from test_qp import EVERY_OUTPUT, F64, random_qp, requiring_grad, spoiled
from torch import nn
from torch.autograd import gradcheck
from torch.func import grad, jacfwd, jacrev, vmap

import optlayers as ol

POINT = ("x", "y", "z", "z_lb", "z_ub", "s")


def inner_qp(n=4, m=5, k=1, linear=False):
    """A program with the strictly feasible point 0."""
    L = torch.randn(n, n, dtype=F64)
    data = {
        "Q": torch.zeros(n, n, dtype=F64) if linear else L @ L.T / n,
        "p": torch.randn(n, dtype=F64),
        "G": torch.randn(m, n, dtype=F64),
        "h": torch.rand(m, dtype=F64) + 0.2,
        "A": torch.randn(k, n, dtype=F64),
        "b": torch.zeros(k, dtype=F64),
        "lb": -torch.rand(n, dtype=F64) - 0.2,
        "ub": torch.rand(n, dtype=F64) + 0.2,
    }
    return data


def barrier_point(data, temperature):
    """The minimiser of the objective minus `temperature` times the logarithms of the slacks, by damped Newton steps."""
    Q, p, G, h, A, b, lb, ub = data.values()
    x, n, k = torch.linalg.pinv(A) @ b, len(p), len(b)

    def slacks(x):
        return torch.cat([h - G @ x, x - lb, ub - x])

    def value(x):
        s = slacks(x)
        return 0.5 * x @ Q @ x + p @ x - temperature * s.log().sum() if (s > 0).all() else torch.inf

    C = torch.cat([G, -torch.eye(n, dtype=F64), torch.eye(n, dtype=F64)])
    for _ in range(200):
        s = slacks(x)
        gradient = 0.5 * (Q + Q.T) @ x + p + temperature * C.T @ (1 / s)
        H = 0.5 * (Q + Q.T) + temperature * C.T @ ((1 / s**2)[:, None] * C)
        K = torch.cat([torch.cat([H, A.T], 1), torch.cat([A, torch.zeros(k, k, dtype=F64)], 1)])
        both = torch.linalg.solve(K, torch.cat([-gradient, b - A @ x]))
        step, length = both[:n], 1.0
        while not value(x + length * step) <= value(x) + 1e-13 and length > 1e-12:
            length /= 2
        x = x + length * step
        if step.norm() < 1e-13:
            break
    s = slacks(x)
    z = temperature / s
    m = len(h)
    return dict(zip(POINT, (x, both[n:], z[:m], z[m : m + n], z[m + n :], s[:m]), strict=True))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 1e-2, 1e-4])
def test_derivative_is_that_of_the_barrier_minimiser(linear, temperature):
    """Of every output, along a direction in which all data move, against differences of an independent solver."""
    data = inner_qp(linear=linear)
    direction = {name: torch.randn_like(t) for name, t in data.items()}
    if linear:  # where Q is zero only its diagonal may grow without a loss of convexity
        direction["Q"] = torch.eye(4, dtype=F64)
    leaves = requiring_grad(data)
    solution = ol.solve_qp(**leaves, adjoint=ol.Smoothed(temperature))
    eps = min(1e-5, 1e-3 * temperature)
    ends = [barrier_point({n: t + sign * eps * direction[n] for n, t in data.items()}, temperature) for sign in (1, -1)]
    for name in POINT:
        want = (ends[0][name] - ends[1][name]) / (2 * eps)
        weights = torch.randn_like(want)
        grads = torch.autograd.grad((getattr(solution, name) * weights).sum(), list(leaves.values()), retain_graph=True)
        got = sum((g * d).sum() for g, d in zip(grads, direction.values(), strict=True))
        torch.testing.assert_close(got, (want * weights).sum(), rtol=1e-4, atol=1e-5 * (1 + want.abs().max().item()))


def test_values_are_exact():
    data = random_qp((3,))
    for temperature in (10.0, 1e-3):
        got, want = ol.solve_qp(**requiring_grad(data), adjoint=ol.Smoothed(temperature)), ol.solve_qp(**data)
        for name in EVERY_OUTPUT:
            torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=0, atol=1e-14)


def test_the_limit_is_the_exact_gradient():
    data = requiring_grad(random_qp((3,), n=6, m=4, k=1, bounds=False))
    weights = torch.randn(3, 6, dtype=F64)

    def gradient(adjoint):
        x = ol.solve_qp(**data, adjoint=adjoint).x
        return torch.cat([g.flatten() for g in torch.autograd.grad((x * weights).sum(), list(data.values()))])

    exact = gradient(ol.Implicit())
    errors = [(gradient(ol.Smoothed(t)) - exact).norm() / exact.norm() for t in (1e-2, 1e-4, 1e-6, 1e-8)]
    assert all(b < 0.1 * a for a, b in itertools.pairwise(errors)) and errors[-1] < 1e-5


def test_second_derivatives_and_forward_mode():
    data = inner_qp(n=3, m=3, k=1)
    names = [name for name in data if name != "Q"]
    leaves = [data[name].clone().requires_grad_() for name in names]
    weights = [torch.randn(1, dtype=F64) for _ in POINT]

    def gradient(*tensors):  # FD of it are second derivatives of the smoothed map
        solution = ol.solve_qp(data["Q"], **dict(zip(names, tensors, strict=True)), adjoint=ol.Smoothed(0.1))
        loss = sum((w * getattr(solution, name)).sum() for w, name in zip(weights, POINT, strict=True))
        return torch.autograd.grad(loss, tensors, create_graph=True)

    assert gradcheck(gradient, leaves)

    def f(p):
        solution = ol.solve_qp(**{**data, "p": p}, adjoint=ol.Smoothed(0.1))
        return torch.cat([getattr(solution, name) for name in POINT])

    torch.testing.assert_close(jacfwd(f)(data["p"]), jacrev(f)(data["p"]), rtol=1e-9, atol=1e-10)
    twice = jacfwd(jacrev(lambda p: f(p).sum()))(data["p"])
    torch.testing.assert_close(twice, twice.T, rtol=1e-8, atol=1e-9)


def test_vmap_equals_loop_and_shared_arguments_get_the_sum():
    data = inner_qp()
    p = torch.randn(4, 4, dtype=F64)

    def gradient(p, G):
        return grad(lambda *a: ol.solve_qp(**{**data, "p": a[0], "G": a[1]}, adjoint=ol.Smoothed(0.1)).x[0], (0, 1))(
            p, G
        )

    alone = [gradient(row, data["G"]) for row in p]
    mapped = vmap(gradient, (0, None))(p, data["G"])
    G = data["G"].clone().requires_grad_()
    x = ol.solve_qp(**{**data, "p": p, "G": G}, adjoint=ol.Smoothed(0.1)).x
    for index in range(4):
        torch.testing.assert_close(tuple(m[index] for m in mapped), alone[index], rtol=1e-8, atol=1e-9)
    together = torch.autograd.grad(x[:, 0].sum(), G)[0]
    torch.testing.assert_close(together, sum(g for _, g in alone), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
def test_batch_shapes(batch):
    data = requiring_grad(random_qp(batch, n=4, m=5, k=1))
    x = ol.solve_qp(**data, adjoint=ol.Smoothed(0.1)).x
    grads = torch.autograd.grad(x.sum(), list(data.values()))
    assert x.shape == (*batch, 4) and [g.shape for g in grads] == [t.shape for t in data.values()]


def test_float32():
    data = random_qp((4,), n=5, m=6, k=1)
    both = []
    for dtype in (torch.float32, F64):
        leaves = {name: t.float().to(dtype).requires_grad_() for name, t in data.items()}
        x = ol.solve_qp(**leaves, adjoint=ol.Smoothed(1e-2)).x
        both.append([g.double() for g in torch.autograd.grad(x[:, 0].sum(), list(leaves.values()))])
        assert x.dtype == dtype
    for single, double in zip(*both, strict=True):
        assert (single - double).norm() <= 1e-3 * (1e-3 + double.norm())


def test_infinite_rows_fixed_variables_and_no_inequality():
    data = random_qp((3,), n=5, m=4, k=1)
    middle = 0.5 * (data["lb"] + data["ub"])
    data["lb"][:, 1], data["ub"][:, 1] = middle[:, 1], middle[:, 1]
    data["lb"][:, 0], data["ub"][:, 2], data["h"][:, 3] = -torch.inf, torch.inf, torch.inf
    leaves = requiring_grad(data)
    solution = ol.solve_qp(**leaves, adjoint=ol.Smoothed(1e-9))
    exact = ol.solve_qp(**leaves)
    for name in ("x", "z", "z_ub", "s"):
        weights = torch.randn_like(getattr(exact, name)).where(getattr(exact, name).isfinite(), 0.0)
        got, want = (
            torch.autograd.grad(
                (getattr(s, name).nan_to_num(posinf=0) * weights).sum(), list(leaves.values()), retain_graph=True
            )
            for s in (solution, exact)
        )
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    plain = requiring_grad({name: data[name] for name in "QpAb"})
    both = [
        torch.autograd.grad(ol.solve_qp(**plain, adjoint=a).x[0, 0], plain["p"])[0]
        for a in (ol.Smoothed(0.1), ol.Implicit())
    ]
    torch.testing.assert_close(*both)


def test_failed_samples_have_zero_gradient_and_leave_the_others_alone():
    data = requiring_grad(spoiled())
    good, bad = [0, 1, 4, 7], [2, 3, 5, 6]
    solution = ol.solve_qp(**data, adjoint=ol.Smoothed(0.1), throw=False)
    grads = torch.autograd.grad(solution.x[good].sum() + solution.x[bad].nan_to_num().sum(), list(data.values()))
    alone = {name: t.detach()[good].requires_grad_() for name, t in data.items()}
    want = torch.autograd.grad(ol.solve_qp(**alone, adjoint=ol.Smoothed(0.1)).x.sum(), list(alone.values()))
    for got, expected in zip(grads, want, strict=True):
        torch.testing.assert_close(got[good], expected)
        assert (got[bad] == 0).all()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it where it resumes
def test_compiled_equals_eager():
    """Newton's method on the path is not traced: the graph breaks there."""
    data = requiring_grad(inner_qp(n=3, m=3, k=1))

    def loss(p):
        return ol.solve_qp(**{**data, "p": p}, adjoint=ol.Smoothed(0.1)).x.pow(2).sum()

    compiled = torch.compile(loss, backend="aot_eager")
    got, want = (torch.autograd.grad(f(data["p"]), data["p"])[0] for f in (compiled, loss))
    torch.testing.assert_close(got, want)


def test_no_strictly_feasible_point_warns():
    p = torch.ones(1, dtype=F64, requires_grad=True)
    G = torch.tensor([[1.0], [-1.0]], dtype=F64)
    with pytest.warns(ol.linear_solve.ConvergenceWarning, match="no strictly feasible point"):
        solution = ol.solve_qp(p.detach()[:, None], p, G, G[:, 0], adjoint=ol.Smoothed(1e-3))
    assert solution.x.item() == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_temperature_is_named(temperature):
    with pytest.raises(ValueError, match=r"temperature is .*; expected a positive number"):
        ol.Smoothed(temperature)


def test_where_nothing_can_be_smoothed_it_is_refused():
    with pytest.raises(ValueError, match="fixed_point: adjoint is Smoothed"):
        ol.fixed_point(torch.cos, torch.ones(1), adjoint=ol.Smoothed(0.1))


# -- linear programs --------------------------------------------------------------------------------------------------


def knapsack(values, weights, capacity, adjoint):
    """The linear relaxation: ``max values'x  s.t.  weights'x <= capacity, 0 <= x <= 1``."""
    n = values.shape[-1]
    zero = torch.zeros(n, dtype=F64)
    return ol.solve_qp(
        torch.zeros(n, n, dtype=F64), -values, weights[None], capacity, lb=zero, ub=zero + 1, adjoint=adjoint
    ).x


def test_gradient_of_a_linear_program_leads_downhill():
    """A step against it along the costs changes the vertex, to one of lower loss; the exact gradient is zero."""
    c = torch.tensor([1.0, 1.2, 1.5], dtype=F64, requires_grad=True)  # the cheapest of three gets everything
    target = torch.tensor([0.0, 0.0, 1.0], dtype=F64)

    def loss(c, adjoint):
        ones = torch.ones(1, 3, dtype=F64)
        x = ol.solve_qp(torch.zeros(3, 3, dtype=F64), c, A=ones, b=ones[0, :1], lb=0 * target, adjoint=adjoint).x
        return (x - target).square().sum()

    (exact,) = torch.autograd.grad(loss(c, ol.Implicit()), c)
    assert exact.abs().max() < 1e-12
    current = c
    for _ in range(20):
        (gradient,) = torch.autograd.grad(loss(current, ol.Smoothed(0.1)), current)
        assert gradient.norm() > 1e-3 or loss(current, ol.Implicit()) < 1e-12
        current = (current - gradient).detach().requires_grad_()
    assert loss(c, ol.Implicit()).item() == pytest.approx(2.0) and loss(current, ol.Implicit()) < 1e-9


def test_predict_then_optimise_learns_where_the_exact_gradient_is_zero():
    """Values of items are predicted from features, then the knapsack is filled; what is earned is the loss."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 8, 3, dtype=F64, generator=generator)
    values = (features @ torch.tensor([1.0, -2.0, 0.5], dtype=F64)).exp()
    weights, capacity = torch.rand(8, dtype=F64, generator=generator) + 0.5, torch.tensor([3.0], dtype=F64)
    best = (knapsack(values, weights, capacity, ol.Implicit()) * values).sum(-1).mean()

    def regret(adjoint):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        history = []
        for _ in range(60):
            x = knapsack(model(features).squeeze(-1), weights, capacity, adjoint)
            loss = 1 - (x * values).sum(-1).mean() / best
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        return history

    smoothed, exact = regret(ol.Smoothed(0.1)), regret(ol.Implicit())
    assert exact[-1] == pytest.approx(exact[0])  # no gradient, no learning
    assert smoothed[-1] < 0.2 * smoothed[0]
