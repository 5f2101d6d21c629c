"""Inner problems solved by optimizers: differentiated through all steps, through the last ones, or implicitly."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad

import optlayers as ol
from optlayers import optim

F64 = {"dtype": torch.float64}
OPTIMIZERS = {
    "sgd": lambda lr: optim.sgd(lr, momentum=0.8, nesterov=True),
    "adam": lambda lr: optim.adam(lr, eps=1e-3),
    "lamb": lambda lr: optim.lamb(lr),  # takes norms of each tensor of a sample
    "clipped": lambda lr: optim.chain(optim.clip_by_global_norm(0.5), optim.rmsprop(lr)),
    "scheduled": lambda lr: optim.sgd(lambda count: lr / (1 + count)),
}


def ridge(x, data, penalty):
    residual = data["X"] @ x["w"] + x["b"] - data["y"]
    return residual.square().mean() + penalty * x["w"].square().sum()


@pytest.fixture
def data():
    return {"X": torch.randn(3, 6, 2, **F64), "y": torch.randn(3, 6, **F64)}


def start(batch=(3,), dtype=torch.float64):
    return {"w": torch.zeros(*batch, 2, dtype=dtype), "b": torch.full(batch, 0.5, dtype=dtype)}


def trained(data, penalty, transformation, adjoint=ol.Unroll(), **options):
    solver = ol.GradientDescent(transformation, **options)
    init = start((len(data["X"]),), data["X"].dtype)
    return ol.minimise(ridge, init, (data, penalty), in_dims=(0, None), solver=solver, adjoint=adjoint)


def by_loop(data, penalty, transformation, steps, recorded=None):
    """Each sample on its own, constant before the last `recorded` steps."""
    ends = []
    for X, y in zip(data["X"], data["y"], strict=True):
        x = start(())
        state = transformation.init(x)
        for step in range(steps):
            if recorded is not None and step == steps - recorded:
                x, state = torch.utils._pytree.tree_map(torch.Tensor.detach, (x, state))
            updates, state = transformation.update(grad(ridge)(x, {"X": X, "y": y}, penalty), state, x)
            x = optim.apply_updates(x, updates)
        ends.append(x)
    return {key: torch.stack([x[key] for x in ends]) for key in ends[0]}


def outer(x):
    return x["w"].pow(2).sum() + x["b"].pow(3).sum()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_a_loop_and_so_are_their_derivatives(name, data):
    penalty, lr = (torch.tensor(value, **F64, requires_grad=True) for value in (0.3, 0.05))
    for recorded in (None, 2):
        solution = trained(data, penalty, OPTIMIZERS[name](lr), ol.Unroll(recorded), steps=5)
        expected = by_loop(data, penalty, OPTIMIZERS[name](lr), 5, recorded)
        assert solution.status.eq(ol.Status.SOLVED).all() and solution.iterations.eq(5).all()
        torch.testing.assert_close(solution.x, expected, rtol=1e-12, atol=1e-14)
        got, want = (torch.autograd.grad(outer(x), (penalty, lr)) for x in (solution.x, expected))
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
    with torch.no_grad():
        exact = trained(data, penalty, OPTIMIZERS[name](lr), ol.Unroll(9), steps=5).x
    torch.testing.assert_close(exact, by_loop(data, penalty, OPTIMIZERS[name](lr), 5), rtol=1e-12, atol=1e-14)


def test_one_argument_switches_the_derivative(data):
    """All of the steps, their last fifty, and the optimality condition agree at convergence; the last five do not."""
    penalty = torch.tensor(0.3, **F64, requires_grad=True)

    def slope(adjoint):
        solution = trained(data, penalty, optim.sgd(0.3, momentum=0.5), adjoint)
        assert solution.status.eq(0).all() and solution.residuals.max() <= 1e-10
        return torch.autograd.grad(outer(solution.x), penalty)[0]

    ones = torch.cat([data["X"], torch.ones(3, 6, 1, **F64)], -1)
    weight = torch.diag(torch.tensor([1.0, 1.0, 0.0], **F64))
    exact = torch.linalg.solve(ones.mT @ ones / 6 + penalty * weight, (ones.mT @ data["y"][..., None]) / 6)[..., 0]
    (want,) = torch.autograd.grad(outer({"w": exact[:, :2], "b": exact[:, 2]}), penalty)
    for adjoint in (ol.Implicit(), ol.Unroll(), ol.Unroll(100)):
        torch.testing.assert_close(slope(adjoint), want, rtol=1e-7, atol=1e-9)
    short = slope(ol.Unroll(5))
    assert 1e-6 < (short - want).abs() < want.abs()


def test_derivatives_of_both_modes_and_orders(data):
    X, y = data["X"][:1, :2], data["y"][:1, :2]

    def run(X, penalty, lr):
        return outer(trained({"X": X, "y": y}, penalty, optim.adam(lr, eps=0.1), steps=2).x)

    inputs = [X.requires_grad_(), *(torch.tensor(v, **F64, requires_grad=True) for v in (0.3, 0.1))]
    assert gradcheck(run, inputs, check_forward_ad=True) and gradgradcheck(run, inputs)


def test_transforms_precision_and_batches(data):
    penalty = torch.tensor(0.3, **F64)

    def single(X, y, lr=0.1, dtype=torch.float64):
        solver = ol.GradientDescent(optim.adam(lr, eps=1e-3), steps=4)
        return ol.minimise(
            ridge, start((), dtype), ({"X": X, "y": y}, penalty.to(dtype)), solver=solver, adjoint=ol.Unroll()
        )

    for fn in (lambda X, y: outer(single(X, y).x), grad(lambda X, y: outer(single(X, y).x))):
        one_by_one = torch.stack([fn(*row) for row in zip(data["X"], data["y"], strict=True)])
        torch.testing.assert_close(torch.vmap(fn)(data["X"], data["y"]), one_by_one)
    rates = torch.tensor([0.01, 0.1], **F64)
    each = torch.stack([single(data["X"][0], data["y"][0], lr).x["w"] for lr in rates])
    torch.testing.assert_close(torch.vmap(lambda lr: single(data["X"][0], data["y"][0], lr).x["w"])(rates), each)
    apart = {key: value.repeat_interleave(2, -1)[..., ::2] for key, value in data.items()}
    assert not apart["X"].is_contiguous()
    batch = trained(apart, penalty, optim.adam(0.1, eps=1e-3), steps=4)
    torch.testing.assert_close(batch.x["w"][0], single(data["X"][0], data["y"][0]).x["w"])
    low = single(data["X"][0].float(), data["y"][0].float(), dtype=torch.float32).x["w"]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), batch.x["w"][0], rtol=1e-4, atol=1e-5)
    none = trained({key: value[:0] for key, value in data.items()}, penalty, optim.adam(0.1), steps=4)
    assert none.x["w"].shape == (0, 2) and none.status.shape == (0,)


def test_solver_compiles(data):
    def solve(p):
        solver = ol.GradientDescent(optim.adam(0.1), steps=1, batch_ndim=1)
        return solver(lambda x: (x - p).square().sum(-1), torch.zeros_like(p))[:3]

    torch._dynamo.reset()
    p = torch.randn(3, 4, **F64)
    torch.testing.assert_close(torch.compile(solve, fullgraph=True, backend="aot_eager")(p), solve(p))


def test_samples_are_strangers_and_a_fading_rate_is_no_convergence(data):
    penalty = torch.tensor(0.3, **F64, requires_grad=True)
    alone = trained(data, penalty, optim.sgd(0.2), ol.Unroll())
    data["X"][1, 0, 0] = torch.nan
    solver, how = ol.GradientDescent(optim.sgd(0.2)), {"adjoint": ol.Unroll(), "throw": False}
    spoiled = ol.minimise(ridge, start(), (data, penalty), in_dims=(0, None), solver=solver, **how)
    assert spoiled.status.tolist() == [0, ol.Status.NUMERICAL_ERROR, 0]
    assert spoiled.x["w"][1].isnan().all() and len(set(spoiled.iterations.tolist())) == 3
    torch.testing.assert_close(spoiled.x["w"][::2], alone.x["w"][::2])
    assert torch.autograd.grad(spoiled.x["w"][::2].sum(), penalty)[0].isfinite()
    with pytest.raises(ol.SolveError, match="3 of 3 samples not solved"):
        fading = optim.sgd(optim.schedules.exponential(0.2, 0.5))
        trained({"X": torch.randn(3, 6, 2, **F64), "y": data["y"]}, penalty, fading, max_steps=60)


def test_any_solver_takes_so_many_steps():
    a = torch.tensor([[0.3], [0.9]], **F64, requires_grad=True)

    def fn(x, a):
        return a * x + 1

    solver = ol.Picard(steps=4, batch_ndim=1)
    solution = ol.fixed_point(fn, torch.zeros(2, 1, **F64), (a,), solver=solver, adjoint=ol.Unroll())
    assert solution.status.eq(0).all() and solution.iterations.eq(4).all()
    torch.testing.assert_close(solution.x, 1 + a + a**2 + a**3)
    (got,) = torch.autograd.grad(solution.x.sum(), a)
    torch.testing.assert_close(got, (1 + 2 * a + 3 * a**2).detach())
    run = solver.run(lambda x: fn(x, a), torch.zeros(2, 1, **F64))
    further = solver.run(lambda x: fn(x, a), torch.zeros(2, 1, **F64), state=run.state)
    torch.testing.assert_close(further.state.x, sum(a**k for k in range(8)))


MALFORMED = [
    (lambda: ol.GradientDescent(optim.adam(0.1), step_size=0.1), "together with step_size"),
    (lambda: ol.GradientDescent(optim.adam(0.1), acceleration=True), "together with step_size or acceleration"),
    (lambda: ol.Unroll(-1), "steps is -1"),
    (lambda: ol.minimise(torch.sum, torch.ones(2), solver=ol.GradientDescent(steps=-1)), "steps is -1"),
    (lambda: ol.minimise(torch.sum, torch.ones(2), solver=ol.LBFGS(), adjoint=ol.OneStep()), "adjoint is OneStep"),
]


@pytest.mark.parametrize(("call", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed(call, message):
    with pytest.raises(ValueError, match=message):
        call()
