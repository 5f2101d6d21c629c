"""With DEVICE=cuda: public functions give on the device what they give on the CPU, and stay there."""

import os

import pytest
import torch

import optlayers as ol

pytestmark = pytest.mark.skipif(
    os.environ.get("DEVICE", "cpu") == "cpu", reason="DEVICE names no device to compare the CPU with"
)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def spread(x):
    return torch.diag_embed(x**2 + 1)


def meta_step(x, y):
    """A step of Adam, differentiated with respect to where it starts."""
    transformation = ol.optim.adam(0.1)
    state = transformation.init((x,))
    updates, _ = transformation.update((x * y,), state, inplace=False)
    return ol.optim.apply_updates((x,), updates, inplace=False)[0]


CASES = {
    "solve_qp": lambda x, y: ol.solve_qp(spread(x), y, lb=-x.abs(), ub=x.abs() + 0.1).x,
    "smoothed": lambda x, y: ol.solve_qp(0 * spread(x), y, lb=0 * x, ub=0 * x + 1, adjoint=ol.Smoothed(0.1)).x,
    "softmax": lambda x, y: ol.Softmax()(x) * y,
    "sparsemax": lambda x, y: ol.Sparsemax()(x) * y,
    "entmax": lambda x, y: ol.Entmax(1.3)(x) * y,
    "simplex": lambda x, y: ol.projection.simplex(x, 2.0) * y,
    "l1 ball": lambda x, y: ol.projection.l1_ball(x) * y,
    "psd": lambda x, y: ol.projection.psd(x.unsqueeze(-1) * y.unsqueeze(-2) + y.unsqueeze(-1) * x.unsqueeze(-2)),
    "isotonic": lambda x, y: ol.projection.isotonic(x) * y,
    "second order": lambda x, y: ol.projection.second_order(x) * y,
    "prox": lambda x, y: ol.prox.l1(x, 0.3) * y,
    "sort": lambda x, y: ol.SoftSort(0.5)(x) * y,
    "top k": lambda x, y: ol.LML(2)(x) * y,
    "fixed point": lambda x, y: ol.fixed_point(lambda z, x, y: 0.5 * torch.tanh(x * z) + y, 0 * x, (x, y)).x,
    "root": lambda x, y: ol.root(lambda z, x, y: z**3 + (x**2 + 1) * z - y, 0 * x, (x, y)).x,
    "minimise": lambda x, y: ol.minimise(lambda z, x, y: ((z - x) ** 2 * (1 + y**2)).sum(), 0 * x, (x, y), in_dims=0).x,
    "linear solve": lambda x, y: ol.linear_solve.CG(rtol=1e-12)(lambda v: (x**2 + 1) * v, y),
    "adam": meta_step,
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_those_of_the_cpu(name, device):
    x, y, v = normal(3, 5), normal(3, 5), None
    results = []
    for place in (torch.device("cpu"), device):
        inputs = [t.to(place).requires_grad_() for t in (x, y)]
        out = CASES[name](*inputs)
        assert out.device.type == place.type and out.dtype == torch.float64
        v = normal(*out.shape) if v is None else v
        gradients = torch.autograd.grad(out, inputs, v.to(place), allow_unused=True, materialize_grads=True)
        results.append([t.detach().cpu() for t in (out, *gradients)])
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-7)
