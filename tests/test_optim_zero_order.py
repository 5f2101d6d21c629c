"""Zero-order gradients: the formulas of the estimators, their limits, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import nn

import optlayers as ol
from optlayers import optim

F64 = {"dtype": torch.float64}
ESTIMATORS = [optim.naive, optim.forward, optim.antithetic]


def cubic(x, a):
    return (x**3 * a).sum()


@pytest.mark.parametrize("sigma", [1.0, 1e-3])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__)
def test_formulas(estimator, sigma):
    x, a, z = (torch.randn(4, **F64) for _ in range(3))
    x.requires_grad_()
    decorate = optim.zero_order(estimator, sigma=sigma, noise=lambda t: z)
    value = decorate(cubic)(x, a)
    assert value == cubic(x, a)
    f = [cubic(x.detach() + s * sigma * z, a) for s in (-1, 0, 1)]
    weight = {"naive": f[2], "forward": f[2] - f[1], "antithetic": (f[2] - f[0]) / 2}[estimator.__name__] / sigma
    torch.testing.assert_close(torch.autograd.grad(2 * value, x)[0], 2 * weight * z)
    tangent = torch.randn(4, **F64)
    _, change = torch.func.jvp(lambda x: decorate(cubic)(x, a), (x.detach(),), (tangent,))
    torch.testing.assert_close(change, weight * (z @ tangent))
    torch.testing.assert_close(torch.func.grad(decorate(cubic))(x.detach(), a), weight * z)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__)
def test_the_mean_over_samples_is_the_gradient_of_the_smoothed_function(estimator):
    """Of a quadratic, smoothing changes the value only. Five standard errors."""
    samples, x = 4000, torch.tensor([0.5, -1.0, 2.0], **F64, requires_grad=True)
    smooth = optim.zero_order(estimator, samples=samples, sigma=0.5)(lambda x: x.square().sum())
    (grad,) = torch.autograd.grad(smooth(x), x)
    spread = {"naive": 40.0, "forward": 12.0, "antithetic": 8.0}[estimator.__name__]
    assert ((grad - 2 * x).abs() < 5 * spread / samples**0.5).all()


def test_several_arguments_that_are_trees_and_a_function_without_derivative():
    def simulate(state, scale, name):
        assert name == "numpy"
        return torch.tensor(float(np.sum(state["u"].numpy() ** 2) * scale.numpy() + state["v"].numpy()), **F64)

    state = {"u": torch.randn(3, **F64, requires_grad=True), "v": torch.zeros((), **F64, requires_grad=True)}
    scale = torch.tensor(2.0, **F64, requires_grad=True)
    value = optim.zero_order(samples=2000, sigma=1e-3, argnums=(0, 1))(simulate)(state, scale, name="numpy")
    grads = torch.autograd.grad(value, [state["u"], state["v"], scale])
    expected = [4 * state["u"].detach(), torch.ones((), **F64), state["u"].detach().square().sum()]
    for grad, want in zip(grads, expected, strict=True):
        assert (grad - want).abs().max() < 2.0
    assert optim.zero_order()(simulate)({"u": torch.ones(2), "v": torch.ones(())}, torch.ones(()), "numpy") == 3


def test_vmap_equals_the_loop():
    z = torch.randn(4, **F64)
    f = optim.zero_order(noise=lambda t: z)(lambda x: x.abs().sum())
    points = torch.randn(5, 4, **F64)
    torch.testing.assert_close(torch.vmap(f)(points), torch.stack([f(x) for x in points]))
    slopes = torch.stack([torch.func.grad(f)(x) for x in points])
    torch.testing.assert_close(torch.vmap(torch.func.grad(f))(points), slopes)


def test_a_module_trains_on_a_loss_of_steps():
    class Errors(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 1)
            self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)

        def forward(self, x, y):
            return ((self.net(x)[:, 0] > 0) != y).float().mean() * self.frozen  # no gradient but zero

    x = torch.randn(200, 2)
    y = x @ torch.tensor([1.0, -2.0]) > 0.3
    errors = Errors()
    layer = optim.ZeroOrder(errors, samples=20, sigma=0.3)
    optimizer = optim.Adam(layer.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        layer(x, y).backward()
        optimizer.step()
    assert errors(x, y) < 0.06 and errors.frozen.grad is None


def test_second_derivatives_raise_and_first_order_meta_learning_works():
    x = torch.randn(3, **F64, requires_grad=True)
    f = optim.zero_order()(lambda x: x.square().sum())
    (grad,) = torch.autograd.grad(f(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="zero_order: the derivative of an estimated derivative"):
        torch.autograd.grad(grad.sum(), x)
    with pytest.raises(RuntimeError, match="zero_order: the derivative of an estimated derivative"):
        torch.func.grad(lambda x: torch.func.grad(f)(x).sum())(x.detach())
    net, lr = nn.Linear(2, 1), torch.tensor(0.1, requires_grad=True)
    layer = optim.ZeroOrder(net)
    meta = ol.MetaSGD(net, lr, first_order=True)
    net.forward = lambda: net.weight.square().sum() + net.bias.sum()
    meta.step(layer())
    torch.autograd.grad(net.weight.sum(), lr)


def test_malformed():
    with pytest.raises(ValueError, match="samples is 0"):
        optim.zero_order(samples=0)
    with pytest.raises(ValueError, match="sigma 0"):
        optim.zero_order(sigma=0.0)
    with pytest.raises(ValueError, match=r"shape \(2,\); expected a scalar"):
        optim.zero_order()(lambda x: x)(torch.ones(2))


def test_forward_over_forward_raises():
    f = optim.zero_order(noise=torch.ones_like)(lambda x: x.square().sum())
    with pytest.raises(RuntimeError, match="zero_order: the derivative of an estimated derivative"):
        torch.func.jacfwd(torch.func.jacfwd(f))(torch.ones(2))
    with pytest.raises(RuntimeError, match="zero_order: the derivative of an estimated derivative"):
        torch.func.jacrev(torch.func.jacfwd(f))(torch.ones(2))
