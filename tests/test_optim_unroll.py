"""Unrolling in little memory: values and derivatives of the loop, and memory that grows with the root of the steps."""

import ctypes
import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from optlayers import optim

F64 = {"dtype": torch.float64}
CLEAR = Path("/proc/self/clear_refs")


def loss(p, a):
    return (torch.sin(p * a) + 0.1 * p**2).sum()


def adam_step(state, a, lr):
    params, inner = state
    updates, inner = optim.adam(lr, eps=0.1).update(torch.func.grad(loss)(params, a), inner, params)
    return optim.apply_updates(params, updates), inner


def by_unroll(p, a, lr, steps=7, every=None):
    state = (p, optim.adam(lr).init(p))
    return optim.unroll(adam_step, state, steps, (a, lr), every=every)[0]


def by_loop(p, a, lr, steps=7):
    state = (p, optim.adam(lr).init(p))
    for _ in range(steps):
        state = adam_step(state, a, lr)
    return state[0]


def sgd_loop(p, a, lr, momentum, steps):
    transformation = optim.sgd(lr, momentum)
    state = transformation.init(p)
    for _ in range(steps):
        updates, state = transformation.update(torch.func.grad(loss)(p, a), state, p)
        p = optim.apply_updates(p, updates)
    return p


def reversed_sgd(p, a, lr, momentum, steps):
    return optim.reversible_sgd(loss, p, steps, (a,), lr=lr, momentum=momentum)


@pytest.fixture
def inputs():
    return [torch.randn(3, **F64, requires_grad=True) for _ in range(2)] + [
        torch.tensor(0.1, **F64, requires_grad=True)
    ]


@pytest.mark.parametrize(("steps", "every"), [(0, None), (1, None), (7, None), (9, 4), (5, 1), (5, 50)])
def test_unroll_equals_the_loop(steps, every, inputs):
    ours, expected = by_unroll(*inputs, steps, every), by_loop(*inputs, steps)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-15)
    got, want = (torch.autograd.grad(x.square().sum(), inputs, allow_unused=True) for x in (ours, expected))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_unroll_has_derivatives_of_both_modes_and_orders(inputs):
    assert gradcheck(by_unroll, inputs, check_forward_ad=True)
    assert gradgradcheck(lambda *x: by_unroll(*x, steps=4), inputs)


def test_unroll_under_transforms(inputs):
    _, a, lr = (value.detach() for value in inputs)
    starts = torch.randn(4, 3, **F64)
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian, lambda f: f):
        ours = transform(lambda p: by_unroll(p, a, lr, 3).square())
        expected = torch.stack([transform(lambda p: by_loop(p, a, lr, 3).square())(p) for p in starts])
        torch.testing.assert_close(torch.vmap(ours)(starts), expected)


def test_unroll_compiled_equals_eager_and_forward_over_forward_raises(inputs):
    torch.compiler.reset()
    compiled = torch.compile(by_unroll, fullgraph=True, backend="aot_eager")
    results = [torch.autograd.grad(f(*inputs).sum(), inputs) for f in (by_unroll, compiled)]
    torch.testing.assert_close(*results)
    p, a, lr = (value.detach() for value in inputs)
    with pytest.raises(RuntimeError, match="unroll: forward mode over forward mode"):
        torch.func.jacfwd(torch.func.jacfwd(lambda p: by_unroll(p, a, lr).sum()))(p)


def test_the_graph_does_not_hold_itself(inputs):
    gc.collect()
    gc.disable()
    try:
        for run in (lambda: by_unroll(*inputs), lambda: reversed_sgd(*inputs, 0.9, 3)):
            result = run()
            gone = weakref.ref(result)
            del result
            assert gone() is None
    finally:
        gc.enable()


def test_unroll_keeps_structure_dtype_and_arguments_that_are_no_tensors():
    def step(state, factor, name):
        assert name == "half"
        return {"x": state["x"] * factor, "n": state["n"] + 1, "empty": state["empty"]}

    state = {"x": torch.ones(2, 3).mT, "n": torch.zeros((), dtype=torch.int64), "empty": torch.ones(0)}
    last = optim.unroll(step, state, 4, (torch.tensor(0.5, requires_grad=True), "half"))
    assert last["n"] == 4 and last["x"].dtype == torch.float32 and last["empty"].shape == (0,)
    torch.testing.assert_close(last["x"].detach(), torch.full((3, 2), 0.5**4))


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.3])
@pytest.mark.parametrize("steps", [0, 1, 10, 300])
def test_reversible_equals_sgd(momentum, steps):
    """A reversal that lost a bit in each step would be off by momentum**-steps: 1e13 at the least, after 300."""
    p, a = (torch.randn(20, **F64, requires_grad=True) for _ in range(2))
    hyper = [torch.tensor(value, **F64, requires_grad=True) for value in (0.02, momentum)]
    ours, expected = reversed_sgd(p, a, *hyper, steps), sgd_loop(p, a, *hyper, steps)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    weight = torch.linspace(-1, 1, 20, **F64)
    got, want = (torch.autograd.grad(x @ weight, [p, a, *hyper], allow_unused=True) for x in (ours, expected))
    for ours, expected in zip(got, want, strict=True):
        expected = torch.zeros_like(ours) if expected is None else expected
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)


def test_reversible_on_trees_under_transforms_and_in_float32():
    def tree_loss(params, data):
        return (params["w"] * data["x"] + params["b"]).square().sum()

    def trained(w, lr=0.1):
        params = {"w": w, "b": torch.ones((), dtype=w.dtype)}
        data = {"x": torch.arange(3, dtype=w.dtype), "n": torch.arange(3)}
        return optim.reversible_sgd(tree_loss, params, 20, (data,), lr=lr)["w"].sum()

    starts = torch.randn(4, 3, **F64)
    for transform in (lambda f: f, torch.func.grad):
        expected = torch.stack([transform(trained)(w) for w in starts])
        torch.testing.assert_close(torch.vmap(transform(trained))(starts), expected)
    single = starts[0].float().requires_grad_()
    (grad,) = torch.autograd.grad(trained(single), single)
    assert grad.dtype == trained(single).dtype == torch.float32
    torch.testing.assert_close(grad.double(), torch.func.grad(trained)(starts[0]), rtol=1e-4, atol=1e-5)


def test_reversible_refuses_what_it_cannot_do(inputs):
    p, a, lr = inputs
    (grad,) = torch.autograd.grad(reversed_sgd(p, a, lr, 0.9, 3).sum(), p, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative is not known"):
        torch.autograd.grad(grad.sum(), p)
    with pytest.raises(RuntimeError, match="second derivative is not known"):
        torch.func.grad(torch.func.grad(lambda q: reversed_sgd(q, a.detach(), 0.1, 0.9, 3).sum()))(p.detach()[0])
    far = optim.reversible_sgd(lambda p: (p**2).sum(), torch.tensor([1e6, 1.0], **F64), 2, lr=0.1)
    assert far[0].isnan()  # outside the range
    assert far[1].isnan() or far[1].isfinite()


MALFORMED = [
    (lambda p: optim.unroll(lambda x: x, p, -1), ValueError, "steps is -1"),
    (lambda p: optim.unroll(lambda x: x, p, 2, every=0), ValueError, "every 0"),
    (lambda p: optim.unroll(lambda x: x.sum(), p, 2), ValueError, "expected the same shapes"),
    (lambda p: optim.unroll(lambda x: x * p, p, 2), ValueError, "unroll: .*from outside"),
    (
        lambda p: optim.reversible_sgd(lambda x: (x * p).sum(), p, 2, lr=0.1),
        ValueError,
        "reversible_sgd: .*from outside",
    ),
    (lambda p: optim.reversible_sgd(torch.sum, p, 2, lr=0.1, momentum=0.0), ValueError, r"momentum is 0\.0"),
    (lambda p: optim.reversible_sgd(torch.sum, p, 2, lr=-1.0), ValueError, r"lr is -1\.0"),
    (lambda p: optim.reversible_sgd(torch.sum, p, 2, lr=torch.ones(2)), ValueError, r"\(2,\)"),
    (lambda p: optim.reversible_sgd(torch.sum, p, -2, lr=0.1), ValueError, "steps is -2"),
    (lambda p: optim.reversible_sgd(torch.sum, (), 2, lr=0.1), ValueError, "holds no tensor"),
]


@pytest.mark.parametrize(("call", "error", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.ones(2, requires_grad=True))


# -- memory -----------------------------------------------------------------------------------------------------------


def peak(run, steps, size=100_000):
    """MiB that the derivative of so many steps adds to the resident memory at its peak."""
    p, a = torch.randn(size, **F64).requires_grad_(), torch.randn(size, **F64).requires_grad_()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")  # resets the peak
    before = status("VmRSS")
    torch.autograd.grad(run(p, a, steps).sum(), (p, a))
    return (status("VmHWM") - before) / 1024


def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


@pytest.mark.skipif(not CLEAR.exists(), reason="asks Linux for the peak of the resident memory")
def test_memory_of_the_loop_grows_with_the_steps_ours_with_their_root_or_not():
    rate = torch.tensor(0.1, **F64)
    runs = {
        "loop": lambda p, a, steps: by_loop(p, a, rate, steps),
        "unroll": lambda p, a, steps: by_unroll(p, a, rate, steps),
        "reversible": lambda p, a, steps: reversed_sgd(p, a, 0.02, 0.9, steps),
    }
    for run in runs.values():
        peak(run, 2)
    growth = {name: peak(run, 36) / peak(run, 9) for name, run in runs.items()}
    assert growth["loop"] > 3.0  # 4 but for what does not grow
    assert growth["unroll"] < 2.5  # 2
    assert growth["reversible"] < 1.3  # 1
