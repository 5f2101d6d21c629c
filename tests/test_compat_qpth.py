"""qpth's names and calls."""

import pytest
import torch
from torch.autograd import gradcheck

import optlayers as ol
from optlayers.compat.qpth import QPFunction, QPSolvers, SpQPFunction

F64 = torch.float64


@pytest.fixture
def data():
    n, m, k = 4, 5, 1
    x = torch.randn(n, dtype=F64)
    G, A = torch.randn(m, n, dtype=F64), torch.randn(k, n, dtype=F64)
    p = torch.randn(3, n, dtype=F64)
    return torch.eye(n, dtype=F64), p, G, G @ x + torch.rand(m, dtype=F64), A, A @ x


def test_call_as_in_qpth(data):
    layer = QPFunction(verbose=-1, eps=1e-12, maxIter=10, solver=QPSolvers.PDIPM_BATCHED, check_Q_spd=False)
    x = layer(*data)
    torch.testing.assert_close(x, ol.solve_qp(*data).x)
    torch.testing.assert_close(layer(data[0], data[1][0], *data[2:]), x[:1])  # qpth adds the batch dimension


def test_empty_tensors_mean_no_constraints(data):
    Q, p, G, h, A, b = data
    none = torch.empty(0, dtype=F64)
    torch.testing.assert_close(QPFunction()(Q, p, G, h, none, none), ol.solve_qp(Q, p, G, h).x)
    torch.testing.assert_close(QPFunction()(Q, p, none, none, A, b), ol.solve_qp(Q, p, A=A, b=b).x)


def test_shared_parameters_get_the_sum(data):
    leaves = [t.requires_grad_() for t in data]
    assert gradcheck(QPFunction(), leaves)


def test_infeasible_raises(data):
    Q, p, *_ = data
    G = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]], dtype=F64)
    none = torch.empty(0, dtype=F64)
    with pytest.raises(ol.SolveError, match="PRIMAL_INFEASIBLE"):
        QPFunction()(Q, p, G, torch.tensor([-1.0, -1.0], dtype=F64), none, none)


def test_matrices_in_coordinates(data):
    Q, p, G, h, A, b = data
    places = [t.nonzero().mT for t in (Q, G, A)]
    layer = SpQPFunction(places[0], Q.shape, places[1], G.shape, places[2], A.shape)
    values = [t[tuple(i)] for t, i in zip((Q, G, A), places, strict=True)]
    torch.testing.assert_close(layer(values[0], p, values[1], h, values[2], b), ol.solve_qp(*data).x)
    batched = [v.expand(3, -1) for v in values]
    torch.testing.assert_close(layer(batched[0], p, batched[1], h, batched[2], b), ol.solve_qp(*data).x)
    assert gradcheck(
        layer, [values[0].requires_grad_(), p, values[1].requires_grad_(), h, values[2].requires_grad_(), b]
    )
