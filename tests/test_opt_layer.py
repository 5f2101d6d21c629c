"""OptLayer: random convex programs against cvxpy and scipy, layers of a network, residuals."""

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import optlayers as ol

pytest.importorskip("cvxpy")
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from opt_layer import compare
from smooth_programs import FAMILIES

F64 = torch.float64


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_random_programs_against_cvxpy_and_finite_differences(family):
    found = compare(family, batch=8, infeasible=1)
    assert (found["solved"], found["infeasible"], found["agreed"]) == (7, 1, 7)
    assert found["x_error"] < 1e-6  # of Clarabel refined by SLSQP
    assert found["derivative_error"] < 1e-7
    assert found["iterations"] < 40


def cost(x, v):
    return (x * x.log()).sum() - v @ x


def on_simplex(x, *_):
    return x.sum() - 1


def sharpness(x, v, temperature):
    return temperature * (x * x.log()).sum() - v @ x


def test_softmax_and_sparsemax_as_layers():
    v = torch.randn(6, 5, dtype=F64, requires_grad=True)
    start = torch.full((5,), 0.2, dtype=F64)
    softmax = ol.OptLayer(cost, on_simplex, init=start)
    sparsemax = ol.OptLayer(lambda x, v: (x - v).square().sum(), on_simplex, lambda x, v: -x, init=start)
    weights = torch.randn_like(v)
    for layer, fast in ((softmax, ol.Softmax()), (sparsemax, ol.Sparsemax())):
        ours, theirs = layer(v), fast(v)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        got, want = (torch.autograd.grad((x * weights).sum(), v)[0] for x in (ours, theirs))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_shared_arguments_and_a_single_program():
    v, temperature = torch.randn(4, 3, dtype=F64), torch.tensor(0.7, dtype=F64, requires_grad=True)
    start = torch.full((3,), 0.3, dtype=F64)
    layer = ol.OptLayer(sharpness, on_simplex, init=start, in_dims=(0, None))
    torch.testing.assert_close(layer(v, temperature), (v / temperature).softmax(-1))
    got, want = (
        torch.autograd.grad(x[:, 0].sum(), temperature)[0]
        for x in (layer(v, temperature), (v / temperature).softmax(-1))
    )
    torch.testing.assert_close(got, want)
    single = ol.OptLayer(sharpness, on_simplex, init=start, in_dims=None)
    torch.testing.assert_close(single(v[0], temperature), (v[0] / temperature).softmax(-1))
    assert layer.solve(v, temperature).status.shape == (4,) and single.solve(v[0], temperature).status.shape == ()


class Energy(nn.Module):
    """A convex function of x with learned parameters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x, v):
        return nn.functional.softplus(self.linear(x)).sum() + (x - v).square().sum() / 2


def test_a_module_as_objective_is_learned_copied_pickled_and_moved():
    layer = ol.OptLayer(Energy(), init=torch.zeros(3)).double()
    assert [name for name, _ in layer.named_parameters()] == ["objective.linear.weight", "objective.linear.bias"]
    assert set(layer.state_dict()) == {"objective.linear.weight", "objective.linear.bias"}
    net = nn.Sequential(nn.Linear(2, 3, dtype=F64), layer)
    inputs, targets = torch.randn(6, 2, dtype=F64), torch.randn(6, 3, dtype=F64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(12):
        loss = (net(inputs) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and layer.objective.linear.weight.grad.abs().max() > 0
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(inputs), net(inputs))
    assert net.float()(inputs.float()).dtype == torch.float32
    assert "solver=None" in repr(layer)


def test_a_start_computed_from_the_arguments():
    layer = ol.OptLayer(lambda x, c: c @ x - x.log().sum(), init=lambda c: 0.5 / c)
    c = torch.rand(5, 3, dtype=F64) * 1e3 + 1e-3
    torch.testing.assert_close(layer(c), 1 / c)
    trees = ol.OptLayer(
        lambda x, c: (x["a"] - c).square().sum() + (x["b"] - 1) ** 2,
        init={"a": torch.zeros(3, dtype=F64), "b": torch.zeros((), dtype=F64)},
    )
    x = trees(c)
    torch.testing.assert_close(x["a"], c)
    assert x["b"].shape == (5,)


def test_a_residual_alone():
    """x + exp(x) = theta, and the KKT conditions of an equality-constrained problem written out by hand."""
    theta = torch.rand(4, 3, dtype=F64, requires_grad=True)
    layer = ol.OptLayer(residual=lambda x, t: x + x.exp() - t, init=torch.zeros(3, dtype=F64))
    x = layer(theta)
    torch.testing.assert_close(x + x.exp(), theta)
    (gradient,) = torch.autograd.grad(x.sum(), theta)
    torch.testing.assert_close(gradient, (1 / (1 + x.exp())).detach())
    assert gradcheck(layer, (theta[:1].detach().requires_grad_(),))
    assert gradgradcheck(layer, (theta[:1].detach().requires_grad_(),))

    def kkt(point, v):
        return {"x": point["x"].log() + 1 - v + point["y"], "y": point["x"].sum() - 1}

    init = {"x": torch.full((3,), 0.3, dtype=F64), "y": torch.zeros((), dtype=F64)}
    torch.testing.assert_close(ol.OptLayer(residual=kkt, init=init)(theta)["x"], theta.softmax(-1))


def test_empty_batch_failures_and_wrong_arguments():
    start = torch.full((3,), 0.3, dtype=F64)
    layer = ol.OptLayer(cost, on_simplex, init=start, throw=False)
    assert layer(torch.zeros(0, 3, dtype=F64)).shape == (0, 3)
    v = torch.randn(3, 3, dtype=F64)
    v[1] = torch.nan
    x = layer(v)
    assert x[1].isnan().all()
    torch.testing.assert_close(x[[0, 2]], v[[0, 2]].softmax(-1))
    with pytest.raises(ol.SolveError, match="INVALID_INPUT"):
        ol.OptLayer(cost, on_simplex, init=start)(v)
    for wrong in ({}, {"objective": cost, "residual": cost}, {"residual": cost, "equality": on_simplex}):
        with pytest.raises(ValueError, match="expected an objective"):
            ol.OptLayer(**wrong, init=start)
    with pytest.raises(ValueError, match="batch sizes differ"):
        ol.OptLayer(sharpness, init=start)(v, torch.ones(2, dtype=F64))
