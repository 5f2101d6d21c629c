"""Meta optimizers equal the functional ones in values and meta-gradients; states of modules and optimizers."""

import copy
import inspect
import io
import resource

import pytest
import torch
from test_optim import HYPER, OPTIMIZERS, hyper_values, rebuild
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

import optlayers as ol
from optlayers import optim

F64 = {"dtype": torch.float64}
CLASSES = {
    "sgd": ol.MetaSGD, "adam": ol.MetaAdam, "adamw": ol.MetaAdamW, "nadam": ol.MetaNAdam, "radam": ol.MetaRAdam,
    "adamax": ol.MetaAdamax, "adadelta": ol.MetaAdadelta, "adagrad": ol.MetaAdagrad, "rmsprop": ol.MetaRMSprop,
    "adan": ol.MetaAdan, "lion": ol.MetaLion, "lamb": ol.MetaLamb,
}  # fmt: skip


@pytest.fixture
def data():
    return torch.randn(8, 2, **F64), torch.randn(8, 1, **F64)


def make_net():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def loss_of(net, data):
    return (net(data[0]) - data[1]).square().mean()


def unroll(transformation, net, data, steps):
    """The same steps by the functional optimizer, on leaves of their own."""
    params = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    leaves, state = list(params.values()), transformation.init(params)
    for _ in range(steps):
        loss = (functional_call(net, params, (data[0],)) - data[1]).square().mean()
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        updates, state = transformation.update(dict(zip(params, grads, strict=True)), state, params)
        params = optim.apply_updates(params, updates)
    return leaves, params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_functional_optimizer(name, data):
    net, hyper = make_net(), hyper_values(name, requires_grad=True)
    leaves, params = unroll(rebuild(name, hyper), net, data, 3)
    expected = torch.autograd.grad(
        (functional_call(net, params, (data[0],)) - data[1]).square().mean(), [*leaves, *hyper], allow_unused=True
    )
    start = list(net.parameters())
    values, options = iter(hyper), {}
    for key, value in HYPER[name].items():
        options[key] = tuple(next(values) for _ in value) if isinstance(value, tuple) else next(values)
    meta = CLASSES[name](net, **options)
    for _ in range(3):
        meta.step(loss_of(net, data))
    torch.testing.assert_close(dict(net.named_parameters()), params)
    got = torch.autograd.grad(loss_of(net, data), [*start, *hyper], allow_unused=True)
    torch.testing.assert_close(got, expected)
    names = list(inspect.signature(CLASSES[name]).parameters)
    assert names[0] == "module" and names[-2:] == ["first_order", "truncate"] and names[1] == "lr"


def test_derivatives_of_both_orders(data):
    net = make_net()
    start = [p.detach() for p in net.parameters()]

    def trained(lr, x):
        for module, values in ((net[0], start[:2]), (net[2], start[2:])):
            module.weight, module.bias = (nn.Parameter(value.clone()) for value in values)
        meta = ol.MetaAdam(net, lr, eps=0.1)
        for _ in range(2):
            meta.step(loss_of(net, (x, data[1])))
        return loss_of(net, data)

    inputs = (torch.tensor(0.1, **F64, requires_grad=True), data[0].clone().requires_grad_())
    assert gradcheck(trained, inputs) and gradgradcheck(trained, inputs)


def test_tied_weights_stay_tied_and_frozen_ones_stay():
    def make():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
        net[2].weight = net[0].weight
        net[0].bias.requires_grad_(False)
        return net

    net, twin = make(), make()
    x, frozen = torch.randn(5, 3, **F64), net[0].bias
    meta = ol.MetaSGD(net, 0.1, momentum=0.9)
    reference = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], 0.1, momentum=0.9)
    for _ in range(4):
        meta.step(net(x).square().mean())
        reference.zero_grad()
        twin(x).square().mean().backward()
        reference.step()
    assert net[0].weight is net[2].weight and net[0].bias is frozen and not frozen.requires_grad
    torch.testing.assert_close([p.detach() for p in net.parameters()], [p.detach() for p in twin.parameters()])


def test_groups_have_rates_of_their_own_and_unused_parameters_stay(data):
    net = nn.ModuleDict({"body": nn.Linear(2, 3), "head": nn.Linear(3, 1), "idle": nn.Linear(1, 1)}).double()
    start = {name: p for name, p in net.named_parameters()}
    slow, fast = torch.tensor(0.1, **F64, requires_grad=True), torch.tensor(0.5, **F64, requires_grad=True)
    groups = [
        {"module": net["body"], "names": ["weight"]},
        {"module": net["body"], "names": ["bias"], "lr": fast},
        {"module": net["head"], "lr": 0.2, "momentum": 0.9},
    ]
    meta = ol.MetaSGD(groups, slow)
    meta.add_param_group(net["idle"])

    def loss():
        return (net["head"](net["body"](data[0])) - data[1]).square().mean()

    grads = dict(zip(start, torch.autograd.grad(loss(), list(start.values()), allow_unused=True), strict=True))
    meta.step(loss())
    for name, rate in (("body.weight", 0.1), ("body.bias", 0.5), ("head.weight", 0.2), ("head.bias", 0.2)):
        owner, key = name.split(".")
        torch.testing.assert_close(getattr(net[owner], key).detach(), (start[name] - rate * grads[name]).detach())
    assert net["idle"].weight is start["idle.weight"]
    assert all(grad.abs() > 0 for grad in torch.autograd.grad(loss(), [slow, fast]))


def test_first_order_takes_gradients_as_constants(data):
    net = make_net()
    start = list(net.parameters())
    meta = ol.MetaSGD(net, 0.1, first_order=True)
    for _ in range(3):
        meta.step(loss_of(net, data))
    after = list(net.parameters())
    loss = loss_of(net, data)
    torch.testing.assert_close(torch.autograd.grad(loss, start, retain_graph=True), torch.autograd.grad(loss, after))


def graph_size(tensor):
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return len(seen)


def test_truncation_differentiates_the_last_window(data):
    """Windows of three: the step that opens one is taken from detached parameters, the next two are recorded."""
    net, lr = make_net(), torch.tensor(0.1, **F64, requires_grad=True)
    meta = ol.MetaAdam(net, lr, truncate=3)
    sizes = []
    for _ in range(12):
        meta.step(loss_of(net, data))
        sizes.append(graph_size(loss_of(net, data)))
    assert sizes[3:6] == sizes[6:9] == sizes[9:12] and max(sizes[3:]) <= max(sizes[:3])
    restarted = make_net()
    optim.recover_state_dict(restarted, optim.extract_state_dict(net, by="deepcopy"))
    twin = ol.MetaAdam(restarted, lr)
    twin.load_state_dict(optim.extract_state_dict(meta, by="deepcopy"))
    for _ in range(3):  # by hand: a constant gradient, then two recorded steps
        meta.step(loss_of(net, data))
    twin.first_order = True
    twin.step(loss_of(restarted, data))
    twin.first_order = False
    for _ in range(2):
        twin.step(loss_of(restarted, data))
    torch.testing.assert_close(
        torch.autograd.grad(loss_of(net, data), lr), torch.autograd.grad(loss_of(restarted, data), lr)
    )


def test_recurrent_networks_use_the_new_weights():
    net = nn.LSTM(2, 3).double()
    x, before = torch.randn(4, 1, 2, **F64), {name: p.detach().clone() for name, p in net.named_parameters()}
    ol.MetaSGD(net, 0.5).step(net(x)[0].square().sum())
    now = {name: p.detach() for name, p in net.named_parameters()}
    assert not any(before[name].equal(now[name]) for name in now)
    twin = nn.LSTM(2, 3).double()
    twin.load_state_dict(now)
    torch.testing.assert_close(net(x)[0], twin(x)[0])


def test_soak_memory_is_flat():
    """300 outer steps of 3 inner ones, cut by stop_gradient; benchmarks/optimizers.py does 10,000."""
    net, target = nn.Linear(64, 64), torch.randn(64, 64)
    meta = ol.MetaAdam(net, 1e-2)
    sizes, used = [], []
    for outer in range(300):
        for _ in range(3):
            meta.step((net.weight - target).square().mean())
        loss = (net.weight - target).square().mean()
        sizes.append(graph_size(loss))
        ol.stop_gradient(net)
        ol.stop_gradient(meta)
        if outer in (99, 299):
            used.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert len(set(sizes[1:])) == 1
    assert used[1] - used[0] < 4096  # KiB; one step that stays would add 300 * 16 KiB * several tensors
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in net.parameters())
    assert loss < 1.0


# -- states --------------------------------------------------------------------------------------------------------


def make_normalized():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()


@pytest.mark.parametrize("by", ["reference", "copy", "deepcopy"])
def test_extract_and_recover_a_module(by, data):
    net = make_normalized()
    meta, start = ol.MetaSGD(net, 0.1), net[0].weight
    meta.step(loss_of(net, data))
    state = ol.extract_state_dict(net, by=by)
    values = {name: p.detach().clone() for name, p in net.named_parameters()}
    mean = net[1].running_mean.clone()
    assert set(state.params) == set(values) and "1.running_mean" in state.buffers
    assert (state.params["0.weight"] is net[0].weight) == (by == "reference")
    attached = torch.autograd.grad(state.params["0.weight"].sum(), start, allow_unused=True, retain_graph=True)[0]
    assert (attached is None) == (by == "deepcopy")
    meta.step(loss_of(net, data))
    ol.recover_state_dict(net, state)
    assert all(p.equal(values[name]) for name, p in net.named_parameters())
    assert net[0].weight is state.params["0.weight"] and net[1].running_mean is state.buffers["1.running_mean"]
    assert net[1].running_mean.equal(mean) == (by != "reference")  # training changes buffers in place
    meta.step(loss_of(net, data))  # and goes on from there


def test_options_of_extraction():
    net = make_normalized()
    assert ol.extract_state_dict(net, with_buffers=False).buffers == {}
    detached = ol.extract_state_dict(net, detach_buffers=True)
    assert detached.params["0.weight"] is net[0].weight
    assert detached.buffers["1.running_mean"] is not net[1].running_mean
    moved = ol.extract_state_dict(net, by="copy", device="meta")
    assert all(t.device.type == "meta" for t in [*moved.params.values(), *moved.buffers.values()])
    output = functional_call(net, {**detached.params, **detached.buffers}, (torch.randn(4, 2, **F64),))
    assert output.shape == (4, 1)


@pytest.mark.parametrize("by", ["reference", "copy", "deepcopy"])
def test_extract_and_recover_a_meta_optimizer(by, data):
    net = make_net()
    meta = ol.MetaAdam(net, 0.1)
    meta.step(loss_of(net, data))
    modules, moments = ol.extract_state_dict(net, by=by), ol.extract_state_dict(meta, by=by)
    runs = []
    for _ in range(2):
        meta.step(loss_of(net, data))
        runs.append([p.detach().clone() for p in net.parameters()])
        ol.recover_state_dict(net, modules)
        ol.recover_state_dict(meta, moments)
    torch.testing.assert_close(*runs, rtol=0, atol=0)
    file = io.BytesIO()
    torch.save(ol.extract_state_dict(meta, by="deepcopy"), file)
    file.seek(0)
    meta.load_state_dict(torch.load(file, weights_only=True))


def test_extract_and_recover_a_torch_optimizer(data):
    net = make_net()
    optimizer = optim.Adam(net.parameters(), 0.1)
    loss_of(net, data).backward()
    optimizer.step()
    module, moments = ol.extract_state_dict(net, by="deepcopy"), ol.extract_state_dict(optimizer, by="deepcopy")
    runs = []
    for _ in range(2):
        optimizer.step()
        runs.append([p.detach().clone() for p in net.parameters()])
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(module.params[name])
        ol.recover_state_dict(optimizer, moments)
    torch.testing.assert_close(*runs, rtol=0, atol=0)


@pytest.mark.parametrize("by", ["reference", "copy", "deepcopy"])
def test_clones_of_a_module_in_the_middle_of_training(by, data):
    net = make_normalized()
    net[0].register_buffer("also_mean", net[1].running_mean)
    start = net[0].weight
    ol.MetaSGD(net, 0.1).step(loss_of(net, data))
    clone = ol.module_clone(net, by=by)
    assert clone is not net and clone[0] is not net[0]
    assert clone[0].also_mean is clone[1].running_mean
    assert (clone[0].weight is net[0].weight) == (by == "reference")
    grad = torch.autograd.grad(loss_of(clone.eval(), data), start, allow_unused=True)[0]
    assert (grad is None) == (by == "deepcopy")
    torch.testing.assert_close(dict(clone.named_parameters()), dict(net.named_parameters()))
    mine = ol.module_clone(net, by=by, detach_buffers=True)
    assert mine[1].running_mean is not net[1].running_mean


def test_stop_gradient_and_detach(data):
    net = make_net()
    net[2].register_parameter("tied", net[0].weight)
    meta = ol.MetaAdam(net, 0.1)
    meta.step(loss_of(net, data))
    state = ol.extract_state_dict(net, by="copy")
    assert ol.stop_gradient(net) is net and ol.stop_gradient(meta) is meta and ol.stop_gradient(state) is state
    assert net[2].tied is net[0].weight
    tensors = [*net.parameters(), *state.params.values(), *torch.utils._pytree.tree_leaves(meta.state_dict())]
    assert all(t.is_leaf for t in tensors if isinstance(t, torch.Tensor))
    assert all(p.requires_grad for p in [*net.parameters(), *state.params.values()])
    torch.optim.SGD(net.parameters(), 0.1)
    copy.deepcopy(net.float())
    view = torch.ones(2, 2, requires_grad=True) * 2
    with pytest.raises(ValueError, match="by='deepcopy'"):
        ol.stop_gradient([view[0]])


def test_malformed(data):
    net, scalar = make_net(), torch.ones((), requires_grad=True)
    cases = [
        (lambda: ol.MetaSGD(net, rate=1.0), TypeError, "MetaSGD: .*unexpected keyword argument 'rate'"),
        (lambda: ol.MetaSGD(net, -1.0), ValueError, "lr is -1"),
        (lambda: ol.MetaSGD(net, truncate=0), ValueError, "truncate is 0"),
        (lambda: ol.MetaSGD(nn.Tanh()), ValueError, "no parameter of the module requires a gradient"),
        (lambda: ol.MetaSGD([{"params": net}]), TypeError, "no nn.Module under 'module'"),
        (lambda: ol.MetaSGD([net, net]), ValueError, "in two groups"),
        (lambda: ol.MetaSGD([{"module": net, "names": ["w"]}]), ValueError, r"no parameter \['w'\]"),
        (lambda: ol.MetaSGD([{"module": net, "rate": 1.0}]), TypeError, "unexpected keyword argument 'rate'"),
        (lambda: ol.MetaOptimizer([{"module": net, "lr": 1.0}], optim.sgd()), TypeError, r"has \['lr'\]"),
        (lambda: ol.MetaSGD(net).step(net(data[0])), ValueError, r"loss has shape \(8, 1\)"),
        (lambda: ol.MetaSGD(net).step(torch.ones(())), ValueError, "does not require a gradient"),
        (lambda: ol.MetaSGD(net).step(scalar * 2), ValueError, "depends on no parameter"),
        (lambda: ol.MetaSGD(net).load_state_dict({"groups": [], "steps": 0}), ValueError, "0 groups; expected 1"),
        (lambda: ol.extract_state_dict(net, by="magic"), ValueError, "by is 'magic'"),
        (lambda: ol.extract_state_dict(3), TypeError, "target is a int"),
        (lambda: ol.recover_state_dict(3, ()), TypeError, "target is a int"),
        (lambda: ol.recover_state_dict(net, optim.ModuleState({}, {})), ValueError, "not in both"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
