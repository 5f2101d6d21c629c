"""The torch-style optimizers: equal to torch's step by step, and real `torch.optim.Optimizer`s."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from test_optim import HYPER, OPTIMIZERS, PEERS, case_id
from torch import nn

from optlayers import optim

CLASSES = {name: getattr(optim, cls) for name, cls in {
    "sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "radam": "RAdam", "adamax": "Adamax",
    "adadelta": "Adadelta", "adagrad": "Adagrad", "rmsprop": "RMSprop", "adan": "Adan", "lion": "Lion", "lamb": "Lamb",
}.items()}  # fmt: skip
F64 = {"dtype": torch.float64}


@pytest.fixture
def double():
    """Torch rounds a factor of NAdam to the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def twins():
    params = [torch.randn(4, 3, **F64).mT, torch.randn(5, **F64), torch.randn((), **F64)]
    return [[nn.Parameter(p.clone()) for p in params] for _ in range(2)]


def set_grads(*lists):
    for params in zip(*lists, strict=True):
        grad = torch.randn_like(params[0])
        for parameter in params:
            parameter.grad = grad.clone()


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "peer", "options"), PEERS, ids=case_id)
def test_equals_torch_step_by_step(name, peer, options, double):
    ours, theirs = twins()
    optimizer = CLASSES[name](ours, lr=0.1, **options)
    reference = getattr(torch.optim, peer)(theirs, lr=0.1, **options)
    for _ in range(50):
        set_grads(ours, theirs)
        kept = [p.grad.clone() for p in ours]
        optimizer.step()
        reference.step()
        assert_equal(ours, theirs)
        assert all(p.grad.equal(grad) for p, grad in zip(ours, kept, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_functional_optimizer(name):
    """Also where the fused kernel does not fit: tensor options, 0-d and transposed parameters."""
    for options in (HYPER[name], {**HYPER[name], "lr": torch.tensor(0.1)}, {"lr": 0.1}):
        params, _ = twins()
        optimizer, transformation = CLASSES[name](params, **options), getattr(optim, name)(**options)
        expected = [p.detach().clone() for p in params]
        state = transformation.init(expected)
        for _ in range(3):
            set_grads(params)
            updates, state = transformation.update([p.grad for p in params], state, expected)
            expected = optim.apply_updates(expected, updates)
            optimizer.step()
        assert_equal([p.detach() for p in params], expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_run_goes_on_bit_for_bit(name):
    params, _ = twins()
    optimizer = CLASSES[name](params, **HYPER[name])
    for _ in range(3):
        set_grads(params)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = [nn.Parameter(p.detach().clone()) for p in params]
    loaded = CLASSES[name](twin, lr=0.9)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(optimizer)
    pickled = pickle.loads(pickle.dumps(optimizer))
    for _ in range(2):
        set_grads(params, twin, copied.param_groups[0]["params"], pickled.param_groups[0]["params"])
        for each in (optimizer, loaded, copied, pickled):
            each.step()
    for others in (twin, copied.param_groups[0]["params"], pickled.param_groups[0]["params"]):
        assert all(a.equal(b) for a, b in zip(params, others, strict=True))


def test_param_groups_schedulers_and_missing_gradients_as_in_torch():
    def groups(params):
        return [{"params": params[:1], "lr": 0.5}, {"params": params[1:], "weight_decay": 0.3}]

    ours, theirs = twins()
    optimizer, reference = optim.Adam(groups(ours), 0.1), torch.optim.Adam(groups(theirs), 0.1)
    schedulers = [torch.optim.lr_scheduler.OneCycleLR(each, 0.3, total_steps=20) for each in (optimizer, reference)]
    for step in range(15):
        set_grads(ours, theirs)
        for params in (ours, theirs):
            if step % 3 == 1:  # its step is not counted
                params[2].grad = None
            if step < 4:
                params[1].grad = None
        for each in (optimizer, reference, *schedulers):
            each.step()
        assert_equal(ours, theirs)
    late = [nn.Parameter(torch.ones(2, **F64)) for _ in range(2)]
    optimizer.add_param_group({"params": late[0]})
    reference.add_param_group({"params": late[1]})
    set_grads([*ours, late[0]], [*theirs, late[1]])
    optimizer.step()
    reference.step()
    assert_equal([*ours, late[0]], [*theirs, late[1]])


def test_trains_a_network_with_a_closure_and_hooks():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    optimizer, calls = optim.AdamW(net.parameters(), 0.05), []
    assert isinstance(optimizer, torch.optim.Optimizer)
    optimizer.register_step_post_hook(lambda *_: calls.append(1))

    def closure():
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(60)]
    assert losses[-1] < 0.6 * losses[0] and len(calls) == 60
    assert all(not entry.requires_grad for part in optimizer.state.values() for entry in part.values())


def test_signatures_are_those_of_the_functions():
    for name, cls in CLASSES.items():
        options = [key for key in inspect.signature(getattr(optim, name)).parameters if key != "mask"]
        assert list(inspect.signature(cls).parameters) == ["params", *options]


def test_malformed():
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match=r"Adam: .*unexpected keyword argument 'rate'"):
        optim.Adam([parameter], rate=1.0)
    with pytest.raises(ValueError, match="lr is -1"):
        optim.SGD([{"params": [parameter], "lr": -1.0}])
    with pytest.raises(TypeError, match="lr is a function"):
        optim.SGD([parameter], lr=optim.schedules.constant(1.0))
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="SGD: a gradient is sparse"):
        optim.SGD(embedding.parameters()).step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_the_device(name, device):
    """The CPU's values, by all three faces; with DEVICE=cuda this is a test of the kernels there."""
    start, grads = torch.randn(4, 3, **F64), torch.randn(3, 4, 3, **F64)
    results = []
    for place in (torch.device("cpu"), device):
        parameter, options = nn.Parameter(start.clone().to(place)), HYPER[name]
        optimizer, transformation = CLASSES[name]([parameter], **options), getattr(optim, name)(**options)
        params = {"w": start.to(place)}
        state = transformation.init(params)
        for grad in grads.to(place):
            parameter.grad = grad
            optimizer.step()
            updates, state = transformation.update({"w": grad}, state, params)
            params = optim.apply_updates(params, updates)
        results += [parameter.detach().cpu(), params["w"].cpu()]
        assert params["w"].device.type == place.type
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-12)
