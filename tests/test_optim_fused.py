"""The fused steps: values and derivatives of the plain path, from kernels, whatever the tensors look like."""

import copy
import itertools
import warnings

import pytest
import torch
from torch.autograd import forward_ad

import optlayers as ol
from optlayers import _native, optim
from optlayers._native import update_ops
from optlayers._native.update_ops import Moments, Second
from optlayers.optim import fused, fused_ops
from optlayers.optim.moment_rule import moment_step

F64 = {"dtype": torch.float64}
needs_kernels = pytest.mark.skipif(not _native.available(), reason="the extension is not built")

CASES = [
    ("sgd", {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1, "maximize": True}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("adam", {}),
    ("adam", {"weight_decay": 0.1, "amsgrad": True, "maximize": True, "eps": 0.1, "eps_root": 0.01}),
    ("adamw", {"weight_decay": 0.1, "eps_root": 1e-3}),
    ("nadam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("radam", {"weight_decay": 0.1, "betas": (0.9, 0.9)}),  # never rectified
    ("radam", {"betas": (0.8, 0.999)}),
    ("adamax", {"weight_decay": 0.1}),
    ("adagrad", {"weight_decay": 0.1, "lr_decay": 0.1}),
    ("rmsprop", {"weight_decay": 0.1}),
    ("rmsprop", {"momentum": 0.9, "centered": True}),
    ("lamb", {"weight_decay": 0.1}),
]
NUMBERS = {
    "gradient": -1.0, "decay": 0.1, "keep1": 0.9, "take1": 0.2, "keep2": 0.8, "take2": 0.1, "alpha": -0.3, "beta": -0.2,
    "sigma": 1.5, "rho": 0.01, "epsilon": 0.05, "shrink": -0.02,
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """How often each kernel was called."""
    count = dict.fromkeys(("step", "pull", "push"), 0)

    def counted(name, fn):
        def call(*args, **options):
            count[name] += 1
            return fn(*args, **options)

        return call

    for name in count:
        monkeypatch.setattr(update_ops, name, counted(name, getattr(update_ops, name)))
    return count


def tensors(**kwargs):
    """Of many shapes, and in every layout."""
    shapes = [(), (4, 3), (0, 2), (33,), (1,), (20,), (2, 3, 4)]
    scalar, matrix, empty, vector, one, long, cube = [torch.randn(shape, **kwargs) for shape in shapes]
    return [scalar, matrix.mT, empty, vector, one.expand(5, 2), long[::3], cube.permute(2, 0, 1)]


def twins(case, **options):
    name, given = case
    return [getattr(optim, name)(**given, **options, fused=flag) for flag in (True, False)]


def unrolled(transformation, params, steps=3):
    state = transformation.init(params)
    for n in range(steps):
        grads = [torch.sin(2 * p + n) + 0.3 * p for p in params]
        updates, state = transformation.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    return params


# -- values -----------------------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("inplace", [False, True], ids=["pure", "inplace"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_has_the_values_of_the_plain_path(case, dtype, inplace, calls):
    params, tolerance = tensors(dtype=dtype), 1e-13 if dtype == torch.float64 else 1e-5
    results, counts, steps = [], [], [tensors(dtype=dtype) for _ in range(7)]
    for transformation in twins(case):
        at, state = [p.clone() for p in params], transformation.init(params)
        for grads in steps:
            updates, state = transformation.update(grads, state, at, inplace=inplace)
            at = optim.apply_updates(at, updates, inplace=inplace)
        results.append((at, updates, state))
        counts.append(calls["step"])
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
    assert counts[0] == counts[1] >= 7  # by the first of the two only


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_in_place_is_that_of_the_plain_path(case):
    name, options = case
    cls = next(value for key, value in vars(optim).items() if key.lower() == name and isinstance(value, type))
    start, steps, results = tensors(**F64), [tensors(**F64) for _ in range(5)], []
    for flag in (True, False):
        params = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = copy.deepcopy(cls(params, **options, fused=flag))  # which keeps the switch
        params = optimizer.param_groups[0]["params"]
        for grads in steps:
            for parameter, grad in zip(params, grads, strict=True):
                parameter.grad = grad.clone()
            optimizer.step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@needs_kernels
def test_tails_and_threads():
    before = torch.get_num_threads()
    try:
        for threads, dtype in itertools.product((1, 3), (torch.float32, torch.float64)):
            torch.set_num_threads(threads)
            params = [torch.randn(n, dtype=dtype) for n in (*range(70), 2047, 2049, 100_003)]
            ours, plain = (unrolled(t, params, 2) for t in twins(("adamw", {"weight_decay": 0.1})))
            torch.testing.assert_close(ours, plain)
    finally:
        torch.set_num_threads(before)


# -- derivatives ------------------------------------------------------------------------------------------------------


def entry_of(second, zero=False):
    """Columns of a step of two tensors; with ties and zeros."""
    there = {Second.NONE: (1, 1, 1, 0, 0), Second.LARGEST: (1, 1, 1, 1, 1)}.get(second, (1, 1, 1, 1, 0))
    columns = [[torch.randn(6, **F64), torch.randn(2, 2, **F64).mT] if has else None for has in there]
    for place in (3, 4):
        columns[place] = None if columns[place] is None else [t.square() for t in columns[place]]
    if zero:
        columns = [column and [torch.zeros_like(t) for t in column] for column in columns]
    return columns


def flat_of(columns):
    return [tensor for column in columns if column is not None for tensor in column]


@needs_kernels
@pytest.mark.parametrize("zero", [False, True], ids=["random", "zero"])
@pytest.mark.parametrize("second", list(Second), ids=lambda second: second.name)
def test_products_with_the_derivative(second, zero, calls):
    """By the kernels, by their formulas in torch, and by torch from the plain step."""
    numbers = Moments(second, **(NUMBERS if not zero else {**NUMBERS, "epsilon": 0.0, "rho": 0.0, "take2": 0.2}))
    columns = entry_of(second, zero)
    flat, there = flat_of(columns), [column is not None for column in columns]
    step = fused_ops.Step(numbers, 2, there)
    out = step.run(flat)
    torch.testing.assert_close(out, flat_of(moment_step(numbers, tuple(columns))))
    bar, dot = [torch.randn_like(t) for t in out], [torch.randn_like(t) for t in flat]
    pull, push, needed = fused_ops.Pull(step, [True] * len(flat)), fused_ops.Push(step), [True] * len(flat)
    by_torch = fused_ops.Op.pull(step, flat, bar, needed)
    for found in (pull.run([*flat, *bar]), pull.plain([*flat, *bar])):
        torch.testing.assert_close(found, by_torch)
        assert all(t.isfinite().all() for t in found)
    by_torch = fused_ops.Op.push(step, flat, dot)
    for found in (push.run([*flat, *dot]), push.plain([*flat, *dot])):
        torch.testing.assert_close(found, by_torch)
    holes = [None if i % 2 else t for i, t in enumerate(bar)]  # where nothing comes back
    zeros = [torch.zeros_like(t) if h is None else h for t, h in zip(bar, holes, strict=True)]
    some = fused_ops.Pull(step, [i % 2 == 0 for i in range(len(flat))])
    for run in (some.run, some.plain):
        torch.testing.assert_close(run([*flat, *holes]), pull.run([*flat, *zeros])[::2])
    assert calls == {"step": 1, "pull": 4, "push": 1}


def derivatives(transformation, start, rate):
    """Of first and second order, in both modes, of an unroll with a rate for the gradients."""

    def loss(scale, *params):
        final = unrolled(transformation, [scale * p for p in params])
        return sum((p * (p + i)).sum() for i, p in enumerate(final))

    scale = rate.clone().requires_grad_()
    params = [p.clone().requires_grad_() for p in start]
    first = torch.autograd.grad(loss(scale, *params), [scale, *params], create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), [scale, *params])
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(rate, torch.ones_like(rate)), *start)
        forward = forward_ad.unpack_dual(dual).tangent
    return [g.detach() for g in first], second, forward


@needs_kernels
@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_are_those_of_the_plain_path(case, calls):
    start, rate = [torch.randn(4, 3, **F64).mT, torch.randn((), **F64), torch.randn(5, **F64)], torch.tensor(0.7, **F64)
    ours = derivatives(twins(case, lr=0.1)[0], start, rate)
    assert min(calls.values()) >= 3
    torch.testing.assert_close(ours, derivatives(twins(case, lr=0.1)[1], start, rate), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ours[2], ours[0][0])


@needs_kernels
@pytest.mark.parametrize("case", [CASES[3], CASES[1], CASES[8]], ids=str)
def test_transforms(case, calls):
    start = torch.randn(3, 2, **F64)

    def final(transformation):
        return lambda p: unrolled(transformation, [p, p.sum()], 2)[0].square().sum()

    ours, plain = (final(t) for t in twins(case, lr=0.1))
    transforms = (
        torch.func.grad,
        torch.func.jacfwd,
        torch.func.hessian,
        lambda f: torch.func.jacfwd(torch.func.grad(f)),
    )
    for transform in transforms:
        expected = torch.stack([transform(plain)(p) for p in start])
        torch.testing.assert_close(torch.vmap(transform(ours))(start), expected)
        torch.testing.assert_close(transform(ours)(start[0]), expected[0])
    torch.testing.assert_close(torch.vmap(ours)(start), torch.stack([plain(p) for p in start]))
    assert min(calls.values()) > 0
    with pytest.raises(RuntimeError, match="forward mode over forward mode"):
        torch.func.jacfwd(torch.func.jacfwd(ours))(start[0])


@needs_kernels
def test_a_step_keeps_gradient_and_moments_only():
    params = [torch.randn(100, requires_grad=True), torch.randn(50, requires_grad=True)]
    transformation = optim.adam()
    state, kept = transformation.init(params), []
    grads = [p * 2 for p in params]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        transformation.update(grads, state, params)
    assert sum(kept) == 3 * 150
    updates, _ = transformation.update(grads, state, params)
    with torch.no_grad():
        grads[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        updates[0].sum().backward()


@needs_kernels
def test_rates_that_are_tensors_or_schedules(calls):
    """Only the rate stays outside the kernel."""
    for rate in (torch.tensor(0.1, **F64, requires_grad=True), torch.rand(2, 2, **F64, requires_grad=True)):
        for make in (lambda r: r, lambda r: optim.schedules.exponential(r, 0.5)):
            grads = []
            for flag in (True, False):
                final = unrolled(optim.adamw(make(rate), fused=flag), [torch.ones(2, 2, **F64)])
                grads += torch.autograd.grad(final[0].sum(), rate)
            torch.testing.assert_close(*grads)
    assert calls["step"] == 12


# -- where the kernels are not taken ----------------------------------------------------------------------------------


@needs_kernels
def test_what_the_kernels_do_not_take(calls):
    mixed = [torch.randn(2, **F64), torch.randn(2)]
    half = [torch.randn(2, dtype=torch.bfloat16)]
    cases = [
        (optim.adam(), mixed), (optim.adam(), half), (optim.adam(betas=(torch.tensor(0.9), 0.9)), mixed[:1]),
        (optim.adam(fused=False), mixed[:1]),
    ]  # fmt: skip
    for transformation, params in cases:
        unrolled(transformation, params)
    assert not calls["step"]
    net = torch.nn.Linear(2, 1)
    for flag, expected in ((True, 1), (False, 1)):
        ol.MetaAdam(net, fused=flag).step(net(torch.ones(1, 2)).square().sum())
        assert calls["step"] == expected
    with pytest.raises(TypeError, match="fused"):
        optim.Lion(net.parameters(), fused=True)


def test_missing_kernels_are_told_once(monkeypatch):
    monkeypatch.setattr(_native, "why_not", lambda device: "it was left out")
    params = [torch.randn(3)]
    fused._available.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"no fused kernels on cpu, since it was left out; .* plain torch"):
            ours = unrolled(optim.adam(), params)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.testing.assert_close(unrolled(optim.adam(), params), ours)
    finally:
        fused._available.cache_clear()
    torch.testing.assert_close(unrolled(optim.adam(fused=False), params), ours)
