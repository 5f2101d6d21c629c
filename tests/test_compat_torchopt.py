"""TorchOpt's names and calls: its signatures, its tutorials with their figures, and what they stand for."""

import functools
import importlib
import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol
import optlayers.compat.torchopt as torchopt
from optlayers._native import available

with warnings.catch_warnings():  # the tutorials use functorch, which torch deprecates
    warnings.simplefilter("ignore")
    import functorch

F64 = {"dtype": torch.float64}

# Taken down from TorchOpt 0.7.3: parameters in order, "*" where keyword-only ones begin, defaults that are not obvious.
ADAM = "lr=0.001 betas=(0.9, 0.999) eps=1e-08 weight_decay=0.0 *"
EASY = "{} betas=(0.9, 0.999) eps={} weight_decay=0.0"
GRAD = "lr=0.01 lr_decay=0.0 weight_decay=0.0 initial_accumulator_value=0.0 eps=1e-10 * maximize=False"
RMS = (
    "lr=0.01 alpha=0.99 eps=1e-08 weight_decay=0.0 momentum=0.0 centered=False * initial_scale=0.0 nesterov=False "
    "maximize=False"
)
SGD = "lr momentum=0.0 weight_decay=0.0 dampening=0.0 nesterov=False"
W = "lr=0.001 betas=(0.9, 0.999) eps=1e-08 weight_decay=0.01 * eps_root=0.0 mask=None"
KRYLOV = "rtol=1e-05 atol=0.0 maxiter=None M=None"
SIGNATURES = {
    "sgd": "lr momentum=0.0 dampening=0.0 weight_decay=0.0 nesterov=False * moment_requires_grad=False maximize=False",
    "adam": f"{ADAM} eps_root=0.0 moment_requires_grad=False maximize=False use_accelerated_op=False",
    "adamw": f"{W} moment_requires_grad=False maximize=False use_accelerated_op=False",
    "adamax": EASY.format("lr=0.001", "1e-06") + " * moment_requires_grad=False",
    "adadelta": "lr=0.001 rho=0.9 eps=1e-06 weight_decay=0.0 * moment_requires_grad=False",
    "radam": EASY.format("lr=0.001", "1e-06") + " * moment_requires_grad=False",
    "adagrad": GRAD,
    "rmsprop": RMS,
    "Optimizer": "params impl",
    "SGD": f"params {SGD} maximize=False",
    "Adam": f"params {ADAM} eps_root=0.0 maximize=False use_accelerated_op=False",
    "AdamW": f"params {W} maximize=False use_accelerated_op=False",
    "AdaMax": "params " + EASY.format("lr=0.002", "1e-08"),
    "AdaDelta": "params lr=1.0 rho=0.9 eps=1e-06 weight_decay=0.0",
    "RAdam": "params " + EASY.format("lr=0.001", "1e-08"),
    "AdaGrad": f"params {GRAD}",
    "RMSProp": f"params {RMS}",
    "FuncOptimizer": "impl * inplace=False",
    "MetaOptimizer": "module impl",
    "MetaSGD": f"module {SGD} moment_requires_grad=True maximize=False",
    "MetaAdam": f"module {ADAM} eps_root=0.0 moment_requires_grad=True maximize=False use_accelerated_op=False",
    "MetaAdamW": f"module {W} moment_requires_grad=False maximize=False use_accelerated_op=False",
    "MetaAdaMax": "module " + EASY.format("lr=0.002", "1e-08") + " * moment_requires_grad=True",
    "MetaAdaDelta": "module lr=1.0 rho=0.9 eps=1e-06 weight_decay=0.0 * moment_requires_grad=True",
    "MetaRAdam": "module " + EASY.format("lr=0.001", "1e-08") + " * moment_requires_grad=True",
    "MetaAdaGrad": f"module {GRAD}",
    "MetaRMSProp": f"module {RMS}",
    "accelerated_op_available": "devices=None",
    "apply_updates": "params updates * inplace=True",
    "chain": "*transformations",
    "clip_grad_norm": "max_norm norm_type=2.0 error_if_nonfinite=False",
    "register_hook": "hook",
    "nan_to_num": "nan=0.0 posinf=None neginf=None",
    "extract_state_dict": "target * by='reference' device=None with_buffers=True detach_buffers=False "
    "enable_visual=False visual_prefix=''",
    "recover_state_dict": "target state",
    "stop_gradient": "target",
    "module_clone": "target * by='reference' detach_buffers=False device=None",
    "module_detach_": "target",
    "alias.utils.flip_sign_and_add_weight_decay": "weight_decay=0.0 maximize=False",
    "alias.utils.scale_by_neg_lr": "lr",
    "base.GradientTransformation": "init update",
    "base.ChainedGradientTransformation": "*transformations",
    "base.identity": "",
    "combine.chain_flat": "*transformations",
    "transform.trace": "momentum=0.9 dampening=0.0 nesterov=False moment_requires_grad=False",
    "transform.scale": "step_size",
    "transform.scale_by_schedule": "step_size_fn",
    "transform.add_decayed_weights": "weight_decay=0.0 mask=None",
    "transform.masked": "inner mask=None",
    "transform.scale_by_adam": "b1=0.9 b2=0.999 eps=1e-08 eps_root=0.0 moment_requires_grad=False",
    "transform.scale_by_accelerated_adam": "b1=0.9 b2=0.999 eps=1e-08 eps_root=0.0 moment_requires_grad=False",
    "transform.scale_by_adamax": "b1=0.9 b2=0.999 eps=1e-06 moment_requires_grad=False",
    "transform.scale_by_adadelta": "rho=0.9 eps=1e-06 moment_requires_grad=False",
    "transform.scale_by_radam": "b1=0.9 b2=0.999 eps=1e-06 moment_requires_grad=False",
    "transform.scale_by_rss": "initial_accumulator_value=0.0 eps=1e-10",
    "transform.scale_by_rms": "alpha=0.9 eps=1e-08 initial_scale=0.0",
    "transform.scale_by_stddev": "alpha=0.9 eps=1e-08 initial_scale=0.0",
    "schedule.exponential_decay": "init_value decay_rate transition_begin=0 transition_steps=1 staircase=False "
    "end_value=None",
    "schedule.polynomial_schedule": "init_value end_value power transition_steps transition_begin=0",
    "schedule.linear_schedule": "init_value end_value transition_steps transition_begin=0",
    "hook.zero_nan_hook": "g",
    "hook.nan_to_num_hook": "nan=0.0 posinf=None neginf=None",
    "diff.implicit.custom_root": "optimality_fn argnums has_aux=False solve=None",
    "diff.zero_order.zero_order": "distribution method='naive' argnums=(0,) num_samples=1 sigma=1.0",
    # TorchOpt takes **kwargs; these are the ones that it accepts.
    "linear_solve.solve_cg": f"* ridge=None init=None {KRYLOV}",
    "linear_solve.solve_normal_cg": f"* ridge=None init=None {KRYLOV}",
    "linear_solve.solve_inv": "* ridge=None ns=False maxiter=None alpha=None",
    "linalg.cg": f"A b x0=None * {KRYLOV}",
    "linalg.ns": "A b maxiter=None * alpha=None",
    "linalg.ns_inv": "A maxiter=None * alpha=None",
    "nn.swap_state": "module named_tensors allow_missing=False",
    "nn.reparametrize": "module named_tensors allow_missing=False",
    "nn.MetaGradientModule.named_meta_parameters": "self prefix='' recurse=True",
    "nn.MetaGradientModule.register_meta_parameter": "self name param",
    "nn.MetaGradientModule.add_meta_module": "self name meta_module",
    "pytree.tree_add_scalar_mul": "tree_x tree_y alpha=None",
    "pytree.tree_sub_scalar_mul": "tree_x tree_y alpha=None",
    "pytree.tree_scalar_mul": "scalar multiplicand_tree",
    "pytree.tree_truediv": "dividend_tree divisor_tree",
    "pytree.tree_vdot_real": "tree_x tree_y",
    "distributed.on_rank": "*ranks",
    "distributed.barrier": "worker_names=None",
}
SAME = {
    "Adamax": "AdaMax", "Adadelta": "AdaDelta", "Adagrad": "AdaGrad", "RMSprop": "RMSProp", "MetaAdamax": "MetaAdaMax",
    "MetaAdadelta": "MetaAdaDelta", "MetaAdagrad": "MetaAdaGrad", "MetaRMSprop": "MetaRMSProp",
    "nn.reparameterize": "nn.reparametrize", "optim.Adam": "Adam", "optim.meta.MetaAdam": "MetaAdam",
    "optim.func.FuncOptimizer": "FuncOptimizer", "alias.adam": "adam", "clip.clip_grad_norm": "clip_grad_norm",
    "diff.implicit.ImplicitMetaGradientModule": "nn.ImplicitMetaGradientModule",
    "diff.zero_order.ZeroOrderGradientModule": "nn.ZeroOrderGradientModule", "utils.stop_gradient": "stop_gradient",
    "update.apply_updates": "apply_updates", "accelerated_op.is_available": "accelerated_op_available",
}  # fmt: skip


def find(name):
    return functools.reduce(getattr, name.split("."), torchopt)


def shown(fn):
    """A signature in the notation of the table."""
    words, star = [], False
    for p in inspect.signature(fn).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not star:
            words, star = [*words, "*"], True
        default = "" if p.default is p.empty else f"={p.default!r}"
        words.append(("*" if p.kind is p.VAR_POSITIONAL else "") + p.name + default)
    return " ".join(words)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    assert shown(find(name)) == SIGNATURES[name]


def test_several_names_of_one_thing_and_modules_by_path():
    for name, same in SAME.items():
        assert find(name) is find(same)
    for path in [
        "optim.meta",
        "diff.zero_order",
        "nn.stateless",
        "alias.utils",
        "linear_solve",
        "distributed",
        "typing",
    ]:
        module = importlib.import_module(f"optlayers.compat.torchopt.{path}")
        assert all(hasattr(module, name) for name in getattr(module, "__all__", []))
    assert all(hasattr(torchopt, name) for name in torchopt.__all__)


# -- the tutorial on implicit differentiation, as written but for the import -----------------------------------------
class Net(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc = nn.Linear(dim, 1, bias=True)
        nn.init.ones_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        return self.fc(x)


def imaml_objective(params, meta_params, data):
    x, y, fmodel = data
    y_pred = fmodel(params, x)
    regularization_loss = 0.0
    for p1, p2 in zip(params, meta_params):  # noqa: B905
        regularization_loss += 0.5 * torch.sum(torch.square(p1.view(-1) - p2.view(-1)))
    return F.mse_loss(y_pred, y) + regularization_loss


def inner_solver(params, meta_params, data):
    optimizer = torchopt.sgd(lr=2e-2)
    opt_state = optimizer.init(params)
    with torch.enable_grad():
        for _ in range(100):
            final_loss = imaml_objective(params, meta_params, data)
            grads = torch.autograd.grad(final_loss, params)
            updates, opt_state = optimizer.update(grads, opt_state, inplace=True)
            params = torchopt.apply_updates(params, updates, inplace=True)
    return params


class InnerNet(
    torchopt.diff.implicit.ImplicitMetaGradientModule,
    linear_solve=torchopt.linear_solve.solve_normal_cg(maxiter=5, atol=0),
):
    def __init__(self, meta_net, n_inner_iter, reg_param):
        super().__init__()
        self.meta_net = meta_net
        self.net = torchopt.module_clone(meta_net, by="deepcopy", detach_buffers=True)
        self.n_inner_iter = n_inner_iter
        self.reg_param = reg_param

    def forward(self, x):
        return self.net(x)

    def objective(self, x, y):
        loss = F.mse_loss(self(x), y)
        regularization_loss = 0
        for p1, p2 in zip(self.parameters(), self.meta_parameters()):  # noqa: B905
            regularization_loss += 0.5 * self.reg_param * torch.sum(torch.square(p1.view(-1) - p2.view(-1)))
        return loss + regularization_loss

    def solve(self, x, y):
        params = tuple(self.parameters())
        inner_optim = torchopt.SGD(params, lr=2e-2)
        with torch.enable_grad():
            for _ in range(self.n_inner_iter):
                loss = self.objective(x, y)
                inner_optim.zero_grad()
                loss.backward(inputs=params)
                inner_optim.step()
        return self


@pytest.fixture
def tutorial():
    torch.manual_seed(0)
    x, w, b = torch.randn(20, 4), torch.randn(4, 1), torch.randn(1)
    return x, x @ w + b + 0.5 * torch.randn(20, 1)


def check_tutorial(grads):
    """The figures that the tutorial prints; the closed form is the same to these digits."""
    weight, bias = grads
    torch.testing.assert_close(weight, torch.tensor([[-0.0369, 0.0248, 0.0347, 0.0067]]), rtol=0, atol=6e-5)
    torch.testing.assert_close(bias, torch.tensor([0.3156]), rtol=0, atol=6e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch")
@pytest.mark.parametrize(
    "solve",
    [
        torchopt.linear_solve.solve_normal_cg(maxiter=5, atol=0),
        torchopt.linear_solve.solve_inv(ns=True, maxiter=100, alpha=0.1),
        torchopt.linear_solve.solve_inv(),  # of two parameter tensors together, where TorchOpt takes diagonal blocks
        torchopt.linear_solve.solve_cg(),
        None,
    ],
    ids=["normal_cg", "neumann", "inverse", "cg", "default"],
)
def test_tutorial_of_custom_root(tutorial, solve):
    x, y = tutorial
    fmodel, meta_params = functorch.make_functional(Net(4))
    params = tuple(p.clone().detach_().requires_grad_(True) for p in meta_params)
    optimality = functorch.grad(imaml_objective, argnums=0)
    solver = torchopt.diff.implicit.custom_root(optimality, argnums=1, solve=solve)(inner_solver)
    optimal_params = solver(params, meta_params, (x, y, fmodel))
    check_tutorial(torch.autograd.grad(fmodel(optimal_params, x).mean(), meta_params))


def test_tutorial_of_the_implicit_module(tutorial):
    x, y = tutorial
    meta_net = Net(4)
    optimal_inner_net = InnerNet(meta_net, 100, reg_param=1).solve(x, y)
    check_tutorial(torch.autograd.grad(optimal_inner_net(x).mean(), meta_net.parameters()))


def test_custom_root_of_trees_and_scalars_at_second_order():
    """What TorchOpt answers with zeros (0-d), with an error (dicts), and wrongly (second order)."""

    def residual(x, given):
        return {"x": x["x"] ** 3 - given["a"] * given["b"]}

    @torchopt.diff.implicit.custom_root(residual, argnums=1, has_aux=True)
    def cube_root(init, given):
        return {"x": (given["a"] * given["b"]) ** (1 / 3)}, "aux"

    def solution(a, b):
        x, aux = cube_root({"x": torch.zeros(())}, {"a": a, "b": b})
        assert aux == "aux"
        return x["x"]

    a, b = torch.tensor(2.0, **F64, requires_grad=True), torch.tensor(3.0, **F64, requires_grad=True)
    assert gradcheck(solution, (a, b), check_forward_ad=True) and gradgradcheck(solution, (a, b))
    torch.testing.assert_close(torch.autograd.grad(solution(a, b), a)[0], 6.0 ** (1 / 3) / 6 * torch.ones((), **F64))


def test_tutorial_of_the_equilibrium():
    """With the condition as rows, which TorchOpt itself refuses; equal to the derivative of many steps."""

    class Equilibrium(torchopt.nn.ImplicitMetaGradientModule, linear_solve=torchopt.linear_solve.solve_normal_cg()):
        def __init__(self, meta_net):
            super().__init__()
            self.meta_net = meta_net

        def forward(self, x):
            return self.meta_net(x)

        def optimality(self):
            return tuple(self.x - self.forward(self.x))

        def register_x(self, x):
            self.x = nn.Parameter(x)

        def solve(self):
            for _ in range(100):
                self.x = nn.Parameter(self(self.x))
            return self

    torch.manual_seed(0)
    meta_net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    x = torch.randn(1, 4)
    inner_net = Equilibrium(meta_net)
    inner_net.register_x(x)
    grads = torch.autograd.grad(inner_net.solve().x.mean(), meta_net.parameters())
    for _ in range(100):
        x = meta_net(x)
    torch.testing.assert_close(grads, torch.autograd.grad(x.mean(), meta_net.parameters()), rtol=1e-3, atol=1e-6)


# -- unrolled training -----------------------------------------------------------------------------------------------
OPTIMIZERS = ["sgd", "adam", "adamw", "adamax", "adadelta", "radam", "adagrad", "rmsprop"]
CLASSES = ["SGD", "Adam", "AdamW", "AdaMax", "AdaDelta", "RAdam", "AdaGrad", "RMSProp"]


OPTIONS = {
    "SGD": {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.2, "maximize": True},
    "Adam": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2},
    "AdamW": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2},
    "AdaMax": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2},
    "AdaDelta": {"rho": 0.8, "eps": 1e-3, "weight_decay": 0.2},
    "RAdam": {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2},
    "AdaGrad": {"lr_decay": 0.1, "weight_decay": 0.2, "initial_accumulator_value": 0.3, "eps": 1e-3},
    "RMSProp": {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.5, "centered": True},
}


@pytest.mark.parametrize("maker", [*CLASSES, *[f"Meta{name}" for name in CLASSES]])
@pytest.mark.parametrize("given", [False, True], ids=["defaults", "options"])
def test_steps_are_those_of_torch(maker, given):
    """The classes have torch's defaults, and hand every option on."""
    data, net, name = torch.randn(5, 3, **F64), nn.Linear(3, 2, **F64), maker.removeprefix("Meta")
    theirs, meta = torchopt.module_clone(net, by="deepclone"), maker != name
    options = {"lr": 0.01, **(OPTIONS[name] if given else {})}
    same = {"AdaMax": "Adamax", "AdaDelta": "Adadelta", "AdaGrad": "Adagrad", "RMSProp": "RMSprop"}
    ours = getattr(torchopt, maker)(net if meta else net.parameters(), **options)
    torchs = getattr(torch.optim, same.get(name, name))(theirs.parameters(), **options)
    for _ in range(10):
        torchs.zero_grad()
        theirs(data).square().sum().backward()
        torchs.step()
        loss = net(data).square().sum()
        if meta:
            ours.step(loss)
        else:
            ours.zero_grad()
            loss.backward()
            ours.step()
    torch.testing.assert_close(net.weight.data, theirs.weight.data, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_functions_func_optimizer_and_meta_optimizer_agree(name):
    make = functools.partial(getattr(torchopt, name), 0.1)
    start, data = torch.randn(2, 3, **F64).requires_grad_(), torch.randn(5, 3, **F64)

    def loss(weight):
        return (data @ weight.mT).square().mean()

    def functions():
        optimizer, params = make(), {"w": start}
        state = optimizer.init(params)
        for _ in range(4):
            grads = dict(
                zip("w", torch.autograd.grad(loss(params["w"]), [params["w"]], create_graph=True), strict=True)
            )
            updates, state = optimizer.update(grads, state, params=params)  # in place only where nothing is recorded
            params = torchopt.apply_updates(params, updates, inplace=False)
        return params["w"]

    def func_optimizer():
        optimizer, params = torchopt.FuncOptimizer(make()), (start,)
        for _ in range(4):
            params = optimizer.step(loss(params[0]), params)
        return params[0]

    def meta_optimizer():
        net = nn.Linear(3, 2, bias=False, **F64)
        net._parameters["weight"] = start  # pyright: ignore
        optimizer = torchopt.MetaOptimizer(net, make())
        for _ in range(4):
            optimizer.step(loss(net.weight))
        return net.weight

    values = [run() for run in (functions, func_optimizer, meta_optimizer)]
    grads = [torch.autograd.grad(loss(value), start)[0] for value in values]
    for value, grad in zip(values[1:], grads[1:], strict=True):
        torch.testing.assert_close(value, values[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(grad, grads[0], rtol=1e-12, atol=1e-14)
    assert grads[0].abs().max() > 0


def test_in_place_steps_and_states():
    params = {"a": torch.randn(3, requires_grad=True), "b": torch.randn(2, requires_grad=True)}
    memory = params["a"].data_ptr()
    optimizer = torchopt.FuncOptimizer(torchopt.adam(0.1), inplace=True)
    kept = optimizer.step(params["a"].square().sum(), params)  # b is unused
    assert kept is not None and kept["a"].data_ptr() == memory
    assert not any(t.requires_grad for t in torchopt.pytree.tree_leaves(optimizer.state_dict()))
    again = torchopt.FuncOptimizer(torchopt.adam(0.1))
    again.load_state_dict(optimizer.state_dict())
    trained = torchopt.Optimizer(params.values(), torchopt.sgd(torchopt.schedule.linear_schedule(1.0, 0.0, 2)))
    before = params["a"].detach().clone()
    for rate in (1.0, 0.5, 0.0):
        trained.zero_grad(set_to_none=True)
        assert trained.step(lambda: (params["a"].sum().backward(), params["a"].sum())[1]) is not None
        before -= rate
        torch.testing.assert_close(params["a"].detach(), before)
    with pytest.raises(ValueError, match=r"Optimizer.load_state_dict: state_dict has 0 groups; expected 1"):
        trained.load_state_dict([])


def test_maml_with_states():
    """Extract, adapt, recover: the outer loop of the tutorials."""
    net, data = nn.Linear(3, 1, **F64), torch.randn(8, 3, **F64)
    inner, outer = torchopt.MetaSGD(net, lr=0.1, momentum=0.9), torchopt.Adam(net.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        net_state = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
        optim_state = torchopt.extract_state_dict(inner, by="ref")
        for _ in range(3):
            inner.step((net(data) - 1).square().mean())
        outer.zero_grad()
        losses.append((net(data) - 1).square().mean())
        losses[-1].backward()
        torchopt.recover_state_dict(net, net_state)
        torchopt.recover_state_dict(inner, optim_state)
        outer.step()
    assert losses[-1] < 0.5 * losses[0]
    inner.step(net(data).square().mean())
    assert torchopt.stop_gradient(net) is None and torchopt.stop_gradient(inner) is None
    assert net.weight.is_leaf and not any(t.requires_grad for t in torchopt.pytree.tree_leaves(inner.state_dict()))
    clone = torchopt.module_clone({"t": torch.ones(2, requires_grad=True), "s": 1}, by="deepcopy")
    assert clone["t"].is_leaf and clone["t"].requires_grad and clone["s"] == 1


def test_transformations_of_ones_own_in_a_chain():
    def init(params):
        return {"count": torch.zeros(())}

    def update(updates, state, *, params=None, inplace=True):
        return torchopt.pytree.tree_map(lambda g: 2 * g, updates), {"count": state["count"] + 1}

    doubled = torchopt.base.GradientTransformation(init, update)
    optimizer = doubled.chain(torchopt.sgd(0.5)).chain(torchopt.base.identity())
    assert isinstance(optimizer, torchopt.base.ChainedGradientTransformation) and len(optimizer.transformations) == 3
    params = {"w": torch.ones(2), "unused": torch.ones(1)}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": torch.ones(2), "unused": None}, state)
    assert state[0]["count"] == 1 and updates["unused"] is None
    torch.testing.assert_close(updates["w"], -torch.ones(2))
    init_fn, update_fn = optimizer
    assert init_fn(params)[0]["count"] == 0 and callable(update_fn)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, float("inf")])
def test_clipping_is_differentiable_and_exact(order):
    clip = torchopt.clip_grad_norm(0.5, order)

    def clipped(a, b):
        updates, _ = clip.update([a, b], clip.init([a, b]), inplace=False)
        return tuple(updates)

    a, b = torch.randn(3, **F64, requires_grad=True), torch.randn(2, 2, **F64, requires_grad=True)
    size = torch.linalg.vector_norm(torch.cat([t.flatten() for t in clipped(a, b)]), ord=order)
    torch.testing.assert_close(size, torch.tensor(0.5, **F64))
    torch.testing.assert_close(clipped(a * 1e-3, b * 1e-3), (a * 1e-3, b * 1e-3))
    assert gradcheck(clipped, (a, b)) and gradgradcheck(clipped, (a, b))
    with pytest.raises(RuntimeError, match=r"clip_grad_norm: the .*-norm of the gradients is not finite"):
        torchopt.clip_grad_norm(0.5, order, error_if_nonfinite=True).update([torch.tensor([float("nan")])], ())


def test_functions_under_transforms_and_compile():
    def trained(rate, w, make):
        optimizer = torchopt.chain(torchopt.clip_grad_norm(1.0), make(rate))
        state = optimizer.init(w)
        for _ in range(3):
            updates, state = optimizer.update(torch.func.grad(lambda w: w.pow(4).sum())(w), state, params=w)
            w = torchopt.apply_updates(w, updates, inplace=False)
        return w.square().sum()

    rates, w = torch.tensor([0.01, 0.1], **F64), torch.randn(3, **F64)
    for make in (torchopt.sgd, torchopt.adam):
        run = functools.partial(trained, make=make)
        torch.testing.assert_close(torch.vmap(run, (0, None))(rates, w), torch.stack([run(r, w) for r in rates]))
        assert torch.func.jacrev(run)(rates[0], w).isfinite()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(compiled(rates[0], w), run(rates[0], w))


def test_hooks_see_the_derivative():
    seen = []
    optimizer = torchopt.chain(torchopt.register_hook(lambda g: seen.append(g) or torchopt.hook.zero_nan_hook(g)),
                               torchopt.sgd(1.0))  # fmt: skip
    x = torch.tensor([1.0, 0.0], requires_grad=True)
    (grad,) = torch.autograd.grad(x.pow(1.5).sum(), x, create_graph=True)
    updates, _ = optimizer.update(grad, optimizer.init(x))
    (updates.sum() * torch.tensor(float("nan"))).backward()
    assert len(seen) == 1 and seen[0].isnan().all() and x.grad is not None
    assert torchopt.hook.nan_to_num_hook(posinf=7.0)(torch.tensor(float("inf"))) == 7


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (torchopt.schedule.exponential_decay(1.0, 0.5, 1, 2), [1, 1, 0.5**0.5, 0.5]),
        (torchopt.schedule.exponential_decay(1.0, 0.5, 0, 2, True, 0.6), [1, 1, 0.6, 0.6]),
        (torchopt.schedule.exponential_decay(1.0, 2.0, end_value=3.0), [1, 2, 3, 3]),
        (torchopt.schedule.exponential_decay(1.0, 0.0), [1, 1, 1, 1]),
        (torchopt.schedule.polynomial_schedule(1.0, 0.0, 2, 2), [1, 0.25, 0, 0]),
        (torchopt.schedule.linear_schedule(1.0, 0.0, 2, 1), [1, 1, 0.5, 0]),
        (torchopt.schedule.linear_schedule(1.0, 0.0, 0), [1, 1, 1, 1]),
    ],
)
def test_schedules(schedule, values):
    assert [float(schedule(n)) for n in range(4)] == pytest.approx(values)


# -- linear algebra, zero order, modules, trees ----------------------------------------------------------------------
def test_linear_algebra():
    root = torch.randn(4, 4, **F64)
    A, b = root @ root.mT + torch.eye(4, **F64), torch.randn(4, **F64)
    exact, inverse = torch.linalg.solve(A, b), torch.linalg.inv(A)
    shifted = torch.linalg.solve(A + 0.3 * torch.eye(4, **F64), b)
    ls, close = torchopt.linear_solve, functools.partial(torch.testing.assert_close, rtol=1e-8, atol=1e-8)
    step = 1 / float(torch.linalg.matrix_norm(A, 2))
    for solve in (
        ls.solve_cg(rtol=1e-12, init=exact + 0.1),
        ls.solve_normal_cg(rtol=1e-12),
        ls.solve_inv(),
        ls.solve_inv(ns=True, maxiter=4000, alpha=step),
    ):
        close(solve(lambda v: A @ v, b), exact)
    close(ls.solve_inv(ridge=0.3)(lambda v: A @ v, b), shifted)
    close(ls.solve_inv(ridge=0.3, ns=True, maxiter=4000, alpha=0.7 * step)(lambda v: A @ v, b), shifted)
    close(torchopt.linalg.cg({"a": A}, {"a": b}, rtol=1e-12, M={"a": inverse})["a"], exact)
    close(torchopt.linalg.ns(A, b, 4000, alpha=step), exact)
    close(torchopt.linalg.ns_inv({"a": A}, 4000, alpha=step)["a"], inverse)
    close(torchopt.linalg.ns_inv(A, 2), 2 * torch.eye(4, **F64) - A)
    with pytest.raises(ValueError, match=r"ns_inv: A has shape \(4,\); expected a square matrix"):
        torchopt.linalg.ns_inv(b)
    with pytest.raises(TypeError, match="solve_inv: maxiter and alpha"):
        ls.solve_inv(maxiter=3)


@pytest.mark.parametrize("method", ["naive", "forward", "antithetic"])
def test_zero_order(method):
    """The mean over samples is the derivative of the smoothed function; `forward` divides by sigma."""
    normal = torch.distributions.Normal(0.0, 1.0)
    x = torch.tensor([0.5, -1.0], **F64, requires_grad=True)
    expected = 2 * x.detach()
    for distribution in (normal, normal.sample):
        decorate = torchopt.diff.zero_order(distribution, method, argnums=0, num_samples=2000, sigma=0.2)
        (grad,) = torch.autograd.grad(decorate(lambda x, k: k * x.square().sum())(x, 1.0), x)
        assert (grad - expected).abs().max() < {"naive": 1.2, "forward": 0.5, "antithetic": 0.5}[method]

    class Model(torchopt.nn.ZeroOrderGradientModule, method=method, num_samples=2000, sigma=0.2):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(x.detach().clone())

        def forward(self, k):
            return k * self.x.square().sum()

        def sample(self, sample_shape=torch.Size()):
            return normal.sample(sample_shape)

    model = Model()
    model(1.0).backward()
    assert (model.x.grad - expected).abs().max() < {"naive": 1.2, "forward": 0.5, "antithetic": 0.5}[method]
    with pytest.raises(ValueError, match="zero_order: method is 'central'"):
        torchopt.diff.zero_order(normal, "central")
    with pytest.raises(TypeError, match="zero_order: distribution is a int"):
        torchopt.diff.zero_order(3)


def test_meta_gradient_module():
    class Module(torchopt.nn.MetaGradientModule):
        def __init__(self, net, scale):
            super().__init__()
            self.net, self.scale, self.own = net, scale, nn.Linear(2, 2)

    module = Module(nn.Sequential(nn.Linear(1, 1)), torch.ones(1, requires_grad=True))
    module.register_meta_parameter("none", None)
    module.add_meta_module("further", nn.ReLU())
    assert [name for name, _ in module.named_meta_parameters("p")] == ["p.net.0.weight", "p.net.0.bias", "p.scale"]
    assert [name for name, _ in module.named_meta_parameters(recurse=False)] == ["scale"]
    assert [name for name, _ in module.named_meta_children()] == ["net", "further"]
    assert [name for name, _ in module.named_meta_modules()] == ["net", "net.0", "further"]
    assert [name for name, _ in module.named_parameters()] == ["own.weight", "own.bias"]


def test_exchange_of_tensors():
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    weight = net[0].weight
    with torchopt.nn.reparametrize(net, {"0.weight": torch.zeros(1, 2), "1.running_mean": torch.ones(1)}):
        assert net[0].weight.sum() == 0 and net[1].running_mean == 1
    assert net[0].weight is weight and net[1].running_mean == 0
    with torchopt.nn.reparametrize(net, {"0.extra": torch.ones(1)}, allow_missing=True):
        assert net[0].extra == 1
    assert not hasattr(net[0], "extra")
    with pytest.raises(AttributeError, match="extra"):
        torchopt.nn.swap_state(net, {"0.extra": torch.ones(1)})


def test_trees():
    tree, t = {"a": torch.tensor([1.0, 2.0]), "b": (None, [torch.tensor(3.0)])}, torchopt.pytree
    leaves, spec = t.tree_flatten(tree)
    assert len(leaves) == 2 == spec.num_leaves and len(t.tree_leaves(tree, none_is_leaf=True)) == 3
    assert t.tree_structure(t.tree_unflatten(spec, leaves)) == spec
    assert t.all_leaves(leaves) and not t.all_leaves([leaves])
    total = t.tree_sub_scalar_mul(t.tree_add(tree, tree, tree), t.tree_scalar_mul(2, tree), 0.5)
    torch.testing.assert_close(t.tree_vdot_real(total, t.tree_neg(tree)), torch.tensor(-28.0))
    assert total["b"][0] is None
    assert t.tree_map_(lambda x: x.mul_(2), tree) is tree and tree["b"][1][0] == 6
    assert t.tree_sum({"x": 1, "y": [2, None]}) == 3 and t.tree_reduce(max, [1, 5, 2]) == 5
    with pytest.raises(ValueError, match="tree_unflatten: got 1 leaves; expected 2"):
        t.tree_unflatten(spec, leaves[:1])


def test_ranks(monkeypatch):
    d = torchopt.distributed
    assert d.rank_zero_only(lambda: 1)() == 1 and d.rank_non_zero_only(lambda: 1)() is None
    monkeypatch.setenv("RANK", "2")
    assert d.get_rank() == d.get_world_info().rank == 2 and d.not_on_rank(0, 2)(lambda: 1)() is None
    torch.testing.assert_close(d.mean_reducer([torch.zeros(2), torch.ones(2)]), torch.full((2,), 0.5))
    d.barrier()
    for call in (d.parallelize, d.auto_init_rpc, lambda: d.barrier(["worker0"])):
        with pytest.raises(NotImplementedError, match="DistributedDataParallel"):
            call()


def test_refusals():
    assert torchopt.accelerated_op_available("cpu") and torchopt.accelerated_op_available() == available("cuda")
    with pytest.raises(TypeError, match="FuncOptimizer: impl is a float; expected a GradientTransformation"):
        torchopt.FuncOptimizer(0.1)
    with pytest.raises(TypeError, match="MetaOptimizer: impl is a str"):
        torchopt.MetaOptimizer(nn.Linear(1, 1), "adam")
    with pytest.raises(ValueError, match="extract_state_dict: enable_visual"):
        torchopt.extract_state_dict(nn.Linear(1, 1), enable_visual=True)
    with pytest.raises(ValueError, match="module_clone: by is 'borrow'"):
        torchopt.module_clone(nn.Linear(1, 1), by="borrow")
    with pytest.raises(ValueError, match="rmsprop: nesterov needs momentum"):
        torchopt.rmsprop(nesterov=True)
    assert isinstance(torchopt.adam(), ol.optim.GradientTransformation)
