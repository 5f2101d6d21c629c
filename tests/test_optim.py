"""The functional optimizers: equal to torch.optim or to their paper, exact meta-gradients, finite at zero gradient."""

import copy
import io
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from optlayers import optim
from optlayers.optim import schedules

F64 = {"dtype": torch.float64}
BETAS = (0.8, 0.7)

# optimizer, options; torch's class has the same options where its name is given
PEERS = [
    ("sgd", "SGD", {}),
    ("sgd", "SGD", {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
    ("sgd", "SGD", {"momentum": 0.9, "nesterov": True, "maximize": True, "weight_decay": 0.1}),
    ("adam", "Adam", {}),
    ("adam", "Adam", {"weight_decay": 0.1, "amsgrad": True, "maximize": True, "betas": BETAS, "eps": 0.1}),
    ("adamw", "AdamW", {}),
    ("adamw", "AdamW", {"weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("nadam", "NAdam", {"weight_decay": 0.1}),
    ("nadam", "NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True, "momentum_decay": 0.1}),
    ("radam", "RAdam", {"weight_decay": 0.1, "maximize": True}),
    ("radam", "RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": BETAS}),  # never rectified
    ("adamax", "Adamax", {"weight_decay": 0.1, "maximize": True}),
    ("adadelta", "Adadelta", {"weight_decay": 0.1, "maximize": True}),
    ("adagrad", "Adagrad", {"weight_decay": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("rmsprop", "RMSprop", {"maximize": True}),
    ("rmsprop", "RMSprop", {"weight_decay": 0.1, "momentum": 0.9, "centered": True}),
]

# one entry for each optimizer, with every differentiable hyper-parameter at a value where it matters
HYPER = {
    "sgd": {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
    "adam": {"lr": 0.1, "betas": BETAS, "eps": 0.05, "weight_decay": 0.1, "eps_root": 0.02},
    "adamw": {"lr": 0.1, "betas": BETAS, "eps": 0.05, "weight_decay": 0.1, "eps_root": 0.02},
    "nadam": {"lr": 0.1, "betas": BETAS, "eps": 0.05, "weight_decay": 0.1, "momentum_decay": 0.3},
    "radam": {"lr": 0.1, "betas": (0.8, 0.99), "eps": 0.05, "weight_decay": 0.1},
    "adamax": {"lr": 0.1, "betas": BETAS, "eps": 0.05, "weight_decay": 0.1},
    "adadelta": {"lr": 0.1, "rho": 0.8, "eps": 0.05, "weight_decay": 0.1},
    "adagrad": {"lr": 0.1, "lr_decay": 0.3, "weight_decay": 0.1, "eps": 0.05},
    "rmsprop": {"lr": 0.1, "alpha": 0.8, "eps": 0.05, "weight_decay": 0.1, "momentum": 0.7},
    "adan": {"lr": 0.1, "betas": (0.8, 0.7, 0.9), "eps": 0.05, "weight_decay": 0.1},
    "lion": {"lr": 0.1, "betas": BETAS, "weight_decay": 0.1},
    "lamb": {"lr": 0.1, "betas": BETAS, "eps": 0.05, "weight_decay": 0.1},
}
OPTIMIZERS = list(HYPER)


def case_id(value):
    return ",".join(value) if isinstance(value, dict) else str(value)


def make_params(**kwargs):
    """Tensors of several shapes: 0-d, transposed, empty, in a nested structure."""
    kwargs = {**F64, **kwargs}
    parts = [torch.randn(4, 3, **kwargs).mT, torch.randn(5, **kwargs), torch.randn((), **kwargs)]
    return {"a": parts[0], "rest": (parts[1], [parts[2], torch.zeros(0, 2, **kwargs)])}


def leaves(params):
    return [params["a"], params["rest"][0], *params["rest"][1]]


def random_like(params):
    return torch.utils._pytree.tree_map(torch.randn_like, params)


@pytest.mark.parametrize("inplace", [False, True], ids=["pure", "inplace"])
@pytest.mark.parametrize(("name", "peer", "options"), PEERS, ids=case_id)
def test_equals_torch_step_by_step(name, peer, options, inplace):
    params = make_params()
    theirs = [torch.nn.Parameter(p.clone()) for p in leaves(params)]
    torch.set_default_dtype(torch.float64)  # else torch rounds a factor of NAdam to float32
    try:
        reference = getattr(torch.optim, peer)(theirs, lr=0.1, **options)
        transformation = getattr(optim, name)(0.1, **options)
        state = transformation.init(params)
        for _ in range(50):
            grads = random_like(params)
            for parameter, grad in zip(theirs, leaves(grads), strict=True):
                parameter.grad = grad.clone()
            reference.step()
            updates, state = transformation.update(grads, state, params, inplace=inplace)
            params = optim.apply_updates(params, updates, inplace=inplace)
            for ours, parameter in zip(leaves(params), theirs, strict=True):
                torch.testing.assert_close(ours, parameter.detach(), rtol=1e-12, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


def adan_step(p, g, s, n, lr, betas, eps, weight_decay):
    """Xie et al., algorithm 1, with the corrections of the authors' code."""
    b1, b2, b3 = betas
    difference = g - s.get("g", g)
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * difference
    s["n"] = b3 * s.get("n", 0) + (1 - b3) * (g + b2 * difference) ** 2
    s["g"] = g
    step = lr / ((s["n"] / (1 - b3**n)).sqrt() + eps)
    return (p - step * (s["m"] / (1 - b1**n) + b2 * s["v"] / (1 - b2**n))) / (1 + weight_decay * lr)


def lion_step(p, g, s, n, lr, betas, weight_decay):
    """Chen et al., algorithm 2."""
    b1, b2 = betas
    m = s.get("m", torch.zeros_like(g))
    s["m"] = b2 * m + (1 - b2) * g
    return p - lr * ((b1 * m + (1 - b1) * g).sign() + weight_decay * p)


def lamb_step(p, g, s, n, lr, betas, eps, weight_decay):
    """You et al., algorithm 2, with the identity for phi."""
    b1, b2 = betas
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    r = (s["m"] / (1 - b1**n)) / ((s["v"] / (1 - b2**n)).sqrt() + eps) + weight_decay * p
    return p - lr * (p.norm() / r.norm() if p.norm() > 0 and r.norm() > 0 else 1.0) * r


@pytest.mark.parametrize("formula", [adan_step, lion_step, lamb_step])
def test_equals_the_paper_step_by_step(formula):
    name = formula.__name__.removesuffix("_step")
    transformation = getattr(optim, name)(**HYPER[name])
    params = make_params()
    expected, memories = leaves(params), [{} for _ in leaves(params)]
    state = transformation.init(params)
    for n in range(1, 51):
        grads = random_like(params)
        expected = [
            formula(p, g, s, n, **HYPER[name]) for p, g, s in zip(expected, leaves(grads), memories, strict=True)
        ]
        updates, state = transformation.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        for ours, theirs in zip(leaves(params), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# -- derivatives ----------------------------------------------------------------------------------------------------


def rebuild(name, values):
    """The optimizer with these numbers, in the order of HYPER, as hyper-parameters."""
    values, options = iter(values), {}
    for key, value in HYPER[name].items():
        options[key] = tuple(next(values) for _ in value) if isinstance(value, tuple) else next(values)
    return getattr(optim, name)(**options)


def hyper_values(name, **kwargs):
    flat = []
    for value in HYPER[name].values():
        flat += value if isinstance(value, tuple) else [value]
    return [torch.tensor(value, **{**F64, **kwargs}) for value in flat]


def unroll(transformation, params, steps=7):
    """Descend on a smooth function by torch.func.grad, which records its steps."""
    state = transformation.init(params)
    gradient = torch.func.grad(lambda ps: sum((torch.sin(2 * p + i) + 0.3 * p**2).sum() for i, p in enumerate(ps)))
    for _ in range(steps):
        updates, state = transformation.update(gradient(params), state, params)
        params = optim.apply_updates(params, updates)
    return params


def meta_loss(name, values, params):
    return sum((p * (p + 1 + i)).sum() for i, p in enumerate(unroll(rebuild(name, values), params)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_meta_gradients_equal_finite_differences(name):
    values = hyper_values(name, requires_grad=True)
    start = [torch.randn(2, 3, **F64).requires_grad_(), torch.tensor(0.7, **F64)]
    exact = torch.autograd.grad(meta_loss(name, values, start), [*values, start[0]])

    def slope(at, change):
        """Central differences of the eighth order."""
        total = 0.0
        for k, weight in enumerate((4 / 5, -1 / 5, 4 / 105, -1 / 280), 1):
            total += weight * (at(change, k) - at(change, -k))
        return total / change

    def along(place):
        def at(change, times):
            moved = [v.detach() + times * change * (i == place) for i, v in enumerate(values)]
            return meta_loss(name, moved, [p.detach() for p in start]).item()

        return slope(at, 3e-5)

    for place in range(len(values)):
        assert abs(exact[place].item() - along(place)) <= 1e-8 * (1 + abs(exact[place].item())), f"hyper {place}"

    direction = torch.randn(2, 3, **F64)

    def at(change, times):
        moved = [start[0].detach() + times * change * direction, start[1]]
        return meta_loss(name, [v.detach() for v in values], moved).item()

    along_start = (exact[-1] * direction).sum().item()
    assert abs(along_start - slope(at, 3e-5)) <= 1e-8 * (1 + abs(along_start))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_both_modes_and_second_order(name):
    values = hyper_values(name, requires_grad=True)
    start = [torch.tensor([0.3, -0.8], **F64).requires_grad_(), torch.tensor(0.6, **F64).requires_grad_()]

    def by_tensors(*inputs):  # one tensor at a time, as a hyper-parameter is a tensor
        return unroll(rebuild(name, inputs[1:]), [inputs[0]], steps=3)[0]

    def by_lists(*inputs):  # foreach kernels
        return tuple(unroll(getattr(optim, name)(**HYPER[name]), list(inputs), steps=3))

    for final, inputs in ((by_tensors, (start[0], *values)), (by_lists, start)):
        assert gradcheck(final, inputs, check_forward_ad=True)
        assert gradgradcheck(final, inputs)


def test_a_rate_for_every_entry():
    rates = torch.rand(2, 3, **F64).requires_grad_()
    start = torch.randn(2, 3, **F64)
    got = torch.autograd.grad(unroll(optim.adam(rates), [start])[0].sum(), rates)[0]
    for i in range(2):
        for j in range(3):
            rate = rates[i, j].detach().clone().requires_grad_()
            alone = unroll(optim.adam(rate), [start[i, j]])[0]
            torch.testing.assert_close(torch.autograd.grad(alone, rate)[0], got[i, j])


@pytest.mark.parametrize("zeros", ["grads", "params and grads"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("eps", [1e-8, 0.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_finite_at_zero_gradient(name, eps, dtype, zeros):
    options = {"centered": True} if name == "rmsprop" else {}
    if "eps" in HYPER[name]:
        options["eps"] = eps
    lr = torch.tensor(0.1, dtype=dtype, requires_grad=True)
    transformation = getattr(optim, name)(lr, **options)
    start = torch.tensor([0.0, 0.0 if zeros != "grads" else 1.0], dtype=dtype, requires_grad=True)
    weight = torch.zeros(2, dtype=dtype, requires_grad=True)
    params, state = [start], transformation.init([start])
    for _ in range(3):
        updates, state = transformation.update([weight * params[0]], state, params)
        params = optim.apply_updates(params, updates)
    grads = torch.autograd.grad(params[0].sum(), [start, weight, lr], create_graph=True)
    assert all(grad.isfinite().all() for grad in grads)
    if eps > 0:  # without it the second derivative of g / |g| at zero has no finite value
        second = torch.autograd.grad(sum(g.sum() for g in grads), [start, weight, lr], allow_unused=True)
        assert all(grad is None or not grad.isnan().any() for grad in second)


# -- transforms, compilation, dtypes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_vmap_over_an_ensemble_equals_the_loop(name):
    starts, values = torch.randn(3, 2, 2, **F64), hyper_values(name)
    rates = torch.tensor([0.1, 0.2, 0.3], **F64)

    def final(start, lr):
        return unroll(rebuild(name, [lr, *values[1:]]), [start], steps=3)[0]

    expected = torch.stack([final(start, lr) for start, lr in zip(starts, rates, strict=True)])
    torch.testing.assert_close(torch.vmap(final)(starts, rates), expected)
    slopes = torch.stack([torch.func.jacrev(final, 1)(s, lr) for s, lr in zip(starts, rates, strict=True)])
    torch.testing.assert_close(torch.vmap(torch.func.jacrev(final, 1))(starts, rates), slopes)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_passes_through_vmap(name):
    transformation = getattr(optim, name)(**HYPER[name])
    params = torch.randn(3, 2, **F64)
    grads = torch.randn(4, 3, 2, **F64)
    state = torch.vmap(transformation.init)(params)
    alone = [transformation.init(p) for p in params]
    for step in grads:
        updates, state = torch.vmap(transformation.update)(step, state, params)
        for i in range(3):
            expected, alone[i] = transformation.update(step[i], alone[i], params[i])
            torch.testing.assert_close(updates[i], expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_equals_eager(name):
    transformation = getattr(optim, name)(**HYPER[name])

    def step(params, grads, state):
        updates, state = transformation.update(grads, state, params)
        return optim.apply_updates(params, updates), state

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    params = {"w": torch.randn(3, 2, **F64), "b": torch.randn(2, **F64)}
    state = transformation.init(params)
    ours, ours_state = params, state
    for _ in range(3):
        grads = random_like(params)
        params, state = step(params, grads, state)
        ours, ours_state = compiled(ours, grads, ours_state)
        torch.testing.assert_close(ours, params)


def test_compiled_with_a_rate_that_changes():
    """torch.compile makes a number symbolic at its second value."""

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(p, rate):
        transformation = optim.adam(rate)
        return p + transformation.update([p], transformation.init([p]), [p])[0][0]

    for rate in (0.1, 0.2, 0.3):
        torch.testing.assert_close(step(torch.ones(2), rate), torch.full((2,), 1 - rate))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_hyperparameters_do_not_cost_accuracy(name):
    """As tensors of float32, in the corrections of a float64 training and of a float32 one."""
    start = [torch.randn(4, **F64)]
    values = hyper_values(name, dtype=torch.float32)
    exact = unroll(rebuild(name, [v.double() for v in values]), start)[0]
    torch.testing.assert_close(unroll(rebuild(name, values), start)[0], exact, rtol=1e-12, atol=1e-12)
    single = unroll(rebuild(name, values), [p.float() for p in start])[0]
    torch.testing.assert_close(single.double(), exact, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dtype_is_kept(name):
    lr = torch.tensor(0.1, **F64)  # a float64 rate does not promote 0-d float32 parameters
    for options in (HYPER[name], {**HYPER[name], "lr": lr}, {**HYPER[name], "lr": schedules.constant(0.1)}):
        transformation = getattr(optim, name)(**options)
        params = [torch.randn(2), torch.randn(()), torch.randn(2, 2, **F64)]
        state = transformation.init(params)
        for _ in range(2):
            updates, state = transformation.update(random_like(params), state, params)
            assert [u.dtype for u in updates] == [p.dtype for p in params]


# -- combinators ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_has_no_gradient_stays(name):
    transformation = getattr(optim, name)(**HYPER[name])
    params = {"used": torch.randn(3, **F64), "unused": torch.randn(3, **F64)}
    state, alone = transformation.init(params), transformation.init(params["used"])
    for _ in range(3):
        grad = torch.randn(3, **F64)
        updates, state = transformation.update({"used": grad, "unused": None}, state, params)
        expected, alone = transformation.update(grad, alone, params["used"])
        assert updates["unused"] is None
        torch.testing.assert_close(updates["used"], expected)
        assert optim.apply_updates(params, updates)["unused"] is params["unused"]


def test_masked_weight_decay():
    matrices = optim.adamw(0.1, weight_decay=0.5, mask=lambda params: [p.ndim > 1 for p in params])
    tree = optim.adamw(0.1, weight_decay=0.5, mask={"b": False, "w": True})
    params = {"b": torch.randn(2, **F64), "w": torch.randn(2, 2, **F64)}
    grads = random_like(params)
    updates = [t.update(grads, t.init(params), params)[0] for t in (matrices, tree)]
    torch.testing.assert_close(*updates)
    for name, decay in (("b", 0.0), ("w", 0.5)):
        plain = optim.adamw(0.1, weight_decay=decay)
        expected, _ = plain.update(grads[name], plain.init(params[name]), params[name])
        torch.testing.assert_close(updates[0][name], expected)


def test_masked_keeps_a_state_for_its_own():
    inner = optim.masked(optim.adam(0.1), [True, False])
    params = [torch.randn(2, **F64), torch.randn(3, **F64)]
    state, alone = inner.init(params), optim.adam(0.1).init(params[0])
    for _ in range(3):
        grads = random_like(params)
        updates, state = inner.update(grads, state, params)
        expected, alone = optim.adam(0.1).update(grads[0], alone)
        torch.testing.assert_close(updates, [expected, grads[1]])


def test_a_transformation_of_the_users_own():
    double = optim.GradientTransformation(
        lambda params: (), lambda u, state, params, overwrite: ([2 * x for x in u], state)
    )
    init, update = optim.chain(double, optim.identity(), optim.scale(-1.0))
    params = {"w": torch.ones(2)}
    assert update(params, init(params))[0]["w"].equal(torch.full((2,), -2.0))


def test_states_are_loaded_as_weights_only():
    for name in OPTIMIZERS:
        transformation = getattr(optim, name)(**HYPER[name])
        params = make_params()
        _, state = transformation.update(random_like(params), transformation.init(params), params)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        loaded, grads = torch.load(file, weights_only=True), random_like(params)
        expected = transformation.update(grads, copy.deepcopy(state), params)[0]
        torch.testing.assert_close(transformation.update(grads, loaded, params)[0], expected)


def test_clipping_equals_torch_and_is_differentiable():
    grads = [torch.randn(3, **F64, requires_grad=True), torch.randn(2, 2, **F64, requires_grad=True)]
    limit = torch.tensor(0.7, **F64, requires_grad=True)
    clipped = optim.clip_by_global_norm(0.7).update(grads, ())[0]
    theirs = [torch.nn.Parameter(g.detach()) for g in grads]
    for parameter, grad in zip(theirs, grads, strict=True):
        parameter.grad = grad.detach().clone()
    torch.nn.utils.clip_grad_norm_(theirs, 0.7)
    for ours, parameter in zip(clipped, theirs, strict=True):
        torch.testing.assert_close(ours.detach(), parameter.grad, rtol=1e-5, atol=1e-6)  # torch adds 1e-6 to the norm
    total = sum(c.square().sum() for c in clipped).sqrt()
    torch.testing.assert_close(total.item(), 0.7)
    for clip in (optim.clip_by_global_norm, optim.clip_by_norm, optim.clip_by_value):

        def clipped(limit, *grads, clip=clip):
            return tuple(clip(limit).update(list(grads), ())[0])

        assert gradcheck(clipped, (limit, *grads), check_forward_ad=True)
        assert gradgradcheck(clipped, (limit, *grads))
        kept = clip(100.0).update(grads, ())[0]
        torch.testing.assert_close(kept, grads)
        zero = torch.zeros(3, **F64, requires_grad=True)
        first = torch.autograd.grad(clip(1.0).update([zero], ())[0][0].sum(), zero, create_graph=True)[0]
        torch.testing.assert_close(first.detach(), torch.ones(3, **F64))
        assert clip(1.0).update([torch.zeros(0)], ())[0][0].shape == (0,)
    huge = optim.clip_by_norm(1.0).update([torch.full((4,), 1e30)], ())[0][0]
    torch.testing.assert_close(huge, torch.full((4,), 0.5))


def test_small_transformations():
    weight = torch.randn(3, 2, 2, **F64)
    centered = optim.centralize().update({"w": weight, "b": weight[0, 0]}, ())[0]
    torch.testing.assert_close(centered["w"].sum((1, 2)), torch.zeros(3, **F64))
    assert centered["b"].equal(weight[0, 0])
    spoiled = torch.tensor([math.nan, math.inf, 1.0], requires_grad=True)
    cleaned = optim.nan_to_num(0.0, 5.0).update(spoiled, ())[0]
    assert cleaned.tolist() == [0.0, 5.0, 1.0]
    assert torch.autograd.grad(cleaned.sum(), spoiled)[0].tolist() == [0.0, 0.0, 1.0]
    variance = optim.scale_by_stddev(0.9, 1e-8)
    assert variance.update(weight, variance.init(weight))[0].isfinite().all()


# -- schedules --------------------------------------------------------------------------------------------------------

SCHEDULES = [
    (lambda: schedules.constant(0.3), lambda n: 0.3),
    (lambda: schedules.exponential(2.0, 0.5, 3), lambda n: 2 * 0.5 ** (n / 3)),
    (lambda: schedules.exponential(2.0, 0.5, 3, staircase=True), lambda n: 2 * 0.5 ** (n // 3)),
    (lambda: schedules.polynomial(2.0, 1.0, 2.0, 8), lambda n: 1 + (1 - min(n, 8) / 8) ** 2),
    (lambda: schedules.linear(2.0, 1.0, 8), lambda n: 2 - min(n, 8) / 8),
    (lambda: schedules.cosine(2.0, 8, 1.0), lambda n: 1 + (1 + math.cos(math.pi * min(n, 8) / 8)) / 2),
    (lambda: schedules.piecewise([1.0, 0.5, 0.1], [2, 5]), lambda n: 1.0 if n < 2 else 0.5 if n < 5 else 0.1),
    (lambda: schedules.warmup(4, schedules.exponential(2.0, 0.5)), lambda n: n / 2 if n < 4 else 2 * 0.5 ** (n - 4)),
]


@pytest.mark.parametrize("case", SCHEDULES, ids=range(len(SCHEDULES)))
def test_schedules(case):
    make, expected = case
    schedule, steps = make(), torch.arange(12)
    values = torch.tensor([expected(n) for n in range(12)], **F64)
    torch.testing.assert_close(torch.stack([schedule(n) for n in range(12)]), values)
    torch.testing.assert_close(torch.vmap(schedule)(steps), values)
    torch.compiler.reset()
    assert torch.compile(schedule, fullgraph=True, backend="aot_eager")(steps[7]) == values[7]


def test_one_cycle_equals_torch():
    parameter = torch.nn.Parameter(torch.zeros(()))
    reference = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(reference, 0.5, total_steps=21, pct_start=0.3, cycle_momentum=False)
    ours = schedules.one_cycle(0.5, 20, 0.25)  # torch's peak is at step 0.3 * 21 - 1 = 5.3, ours at a whole step
    assert ours(0) == pytest.approx(scheduler.get_last_lr()[0])
    assert ours(5) == 0.5
    for _ in range(20):
        reference.step()
        scheduler.step()
    assert ours(20).item() == pytest.approx(scheduler.get_last_lr()[0])
    assert ours(99) == ours(20)


def test_a_scheduled_optimizer_and_the_derivative_in_its_schedule():
    peak = torch.tensor(0.2, **F64, requires_grad=True)

    def final(peak):
        return unroll(optim.adam(schedules.one_cycle(peak, 6)), [torch.ones(2, **F64)], steps=6)[0]

    assert gradcheck(final, (peak,), check_forward_ad=True)
    constant = unroll(optim.sgd(schedules.constant(0.1)), [torch.ones(2, **F64)])
    torch.testing.assert_close(constant, unroll(optim.sgd(0.1), [torch.ones(2, **F64)]))


def test_tensors_changed_in_place_are_read_at_each_step():
    """An outer optimizer changes a rate between two trainings by the same transformation."""
    rate = torch.tensor(0.1, **F64, requires_grad=True)
    makers = [
        lambda lr: optim.sgd(lr),
        lambda lr: optim.adam(schedules.warmup(3, schedules.cosine(lr, 5))),
        lambda lr: optim.lamb(schedules.one_cycle(lr, 5), weight_decay=lr),
        lambda lr: optim.adan(lr, weight_decay=lr),
        lambda lr: optim.adagrad(lr, lr_decay=lr),
    ]
    for make in makers:
        transformation, start = make(rate), [torch.randn(3, **F64)]
        for value in (0.1, 0.3):
            with torch.no_grad():
                rate.fill_(value)
            fresh = torch.tensor(value, **F64, requires_grad=True)
            got = torch.autograd.grad(unroll(transformation, start)[0].sum(), rate)
            torch.testing.assert_close(got, torch.autograd.grad(unroll(make(fresh), start)[0].sum(), fresh))


# -- malformed --------------------------------------------------------------------------------------------------------

MALFORMED = [
    (lambda: optim.adam(-1.0), ValueError, r"adam: lr is -1\.0; expected a finite number >= 0"),
    (lambda: optim.adam("fast"), TypeError, r"adam: lr is a str"),
    (lambda: optim.adam(betas=(0.9, 1.0)), ValueError, r"adam: betas\[1\] is 1\.0"),
    (lambda: optim.adam(betas=0.9), ValueError, r"adam: betas is 0\.9; expected 2"),
    (lambda: optim.adan(betas=(0.9, 0.9)), ValueError, r"adan: betas .* expected 3"),
    (lambda: optim.sgd(0.1, nesterov=True), ValueError, "nesterov needs momentum"),
    (lambda: optim.rmsprop(alpha=math.nan), ValueError, "alpha is nan"),
    (lambda: optim.adamw().update([torch.ones(1)], optim.adamw().init([torch.ones(1)])), ValueError, "params is None"),
    (lambda: optim.sgd().update([torch.ones(1)], ((),) * 4, [torch.ones(2)]), ValueError, r"\(1,\) but .* \(2,\)"),
    (lambda: optim.sgd().update([torch.ones(1)], ((),) * 4, []), ValueError, "1 tensors but params 0"),
    (lambda: optim.masked(optim.sgd(), [True]).init([torch.ones(1)] * 2), ValueError, "mask has 1 leaves"),
    (lambda: schedules.join([schedules.constant(1.0)] * 2, [3, 2]), ValueError, "increasing boundaries"),
    (lambda: schedules.linear(1.0, 0.0, 0), ValueError, "steps is 0"),
    (lambda: schedules.polynomial(1.0, 0.0, 0.0, 3), ValueError, r"power is 0\.0"),
    (lambda: schedules.one_cycle(1.0, 1), ValueError, "rise"),
]


@pytest.mark.parametrize(("call", "error", "message"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed(call, error, message):
    with pytest.raises(error, match=message):
        call()
