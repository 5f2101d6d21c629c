"""The programs of TorchOpt's page on explicit gradients, with the import changed; results are held to closed forms."""

import functorch
import pytest
import torch
from torch import nn

import optlayers.compat.torchopt as torchopt

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch")


class Net(nn.Module):
    def __init__(self, dim=1):
        super().__init__()
        self.a = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return (self.a * x).square().sum()


def test_functional_optimizer():
    """Adam's first steps at `eps` near zero have length `lr`: only through the outer loss does the weight matter."""
    opt = torchopt.adam()
    meta_params = torch.tensor(2.0, requires_grad=True)
    fmodel, params = functorch.make_functional(Net())
    state = opt.init(params)

    for _iter in range(2):
        loss = fmodel(params, meta_params)
        grads = torch.autograd.grad(loss, params, create_graph=True)
        updates, state = opt.update(grads, state, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)

    loss = fmodel(params, meta_params)
    meta_grads = torch.autograd.grad(loss, meta_params)
    torch.testing.assert_close(params[0], torch.tensor([1 - 2e-3]), rtol=0, atol=1e-6)
    torch.testing.assert_close(meta_grads[0], 2 * meta_params * (1 - 2e-3) ** 2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("make", ["low", "high", "accelerated"])
def test_meta_optimizer(make):
    """Two steps of rate 0.1 on ``(a x)^2`` multiply ``a`` by ``(1 - 0.2 x^2)^2``."""
    net, x = Net(), nn.Parameter(torch.tensor(2.0))
    if make == "low":
        optim = torchopt.MetaOptimizer(net, torchopt.sgd(lr=0.1))
    elif make == "high":
        optim = torchopt.MetaSGD(net, lr=0.1)
    else:
        assert torchopt.accelerated_op_available(torch.device("cpu"))
        optim = torchopt.MetaAdam(net, lr=0.1, use_accelerated_op=True)
    for _iter in range(2):
        loss = net(x)
        optim.step(loss)
    (grad,) = torch.autograd.grad(net.a.sum(), x)
    if make == "accelerated":  # Adam's steps are some 0.1 long, whatever x is
        torch.testing.assert_close((net.a.detach(), grad), (torch.tensor([0.8]), torch.tensor(0.0)), rtol=0, atol=1e-3)
    else:
        torch.testing.assert_close(net.a, (1 - 0.2 * x**2).square().reshape(1))
        torch.testing.assert_close(grad, (2 * (1 - 0.2 * x**2) * -0.4 * x).detach())


def test_ordinary_optimizer_with_the_accelerated_op():
    net = Net(1)
    optim = torchopt.Adam(net.parameters(), lr=1.0, use_accelerated_op=True)
    net(torch.tensor(2.0)).backward()
    optim.step()
    torch.testing.assert_close(net.a.detach(), torch.zeros(1), rtol=0, atol=1e-6)


def test_states_of_network_and_optimizer():
    net = Net()
    x = nn.Parameter(torch.tensor(2.0), requires_grad=True)

    optim = torchopt.MetaAdam(net, lr=1.0)

    init_net_state = torchopt.extract_state_dict(net, by="reference")
    init_optim_state = torchopt.extract_state_dict(optim, by="reference")
    init_net_state = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)

    init_net_state_copy = torchopt.extract_state_dict(net, by="copy")
    init_optim_state_copy = torchopt.extract_state_dict(optim, by="copy")

    init_net_state_deepcopy = torchopt.extract_state_dict(net, by="deepcopy")
    init_optim_state_deepcopy = torchopt.extract_state_dict(optim, by="deepcopy")

    for _i in range(2):
        inner_loss = net(x)
        optim.step(inner_loss)
    first = repr(net.a)

    starts = [
        (init_net_state, init_optim_state),
        (init_net_state_copy, init_optim_state_copy),
        (init_net_state_deepcopy, init_optim_state_deepcopy),
    ]
    for net_state, optim_state in starts:
        torchopt.recover_state_dict(net, net_state)
        torchopt.recover_state_dict(optim, optim_state)
        assert net.a == 1
        for _i in range(2):
            inner_loss = net(x)
            optim.step(inner_loss)
        assert repr(net.a) == first
