"""On a GPU the host waits for a status, if at all: no other value is read on the way through solve_qp."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

import optlayers as ol

READS = {"item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__", "unique"}


class Reads(TorchFunctionMode):
    """Counts what makes the host wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in READS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    for module in ("qp", "qp_rule"):
        monkeypatch.setattr(f"optlayers.functional.{module}.free_to_read", lambda tensor: tensor.device.type == "none")


def program(batch, n=5, m=4, k=2):
    L, x = torch.randn(batch, n, n, dtype=torch.float64), torch.randn(n, 1, dtype=torch.float64)
    G, A = torch.randn(m, n, dtype=torch.float64), torch.randn(k, n, dtype=torch.float64)
    data = [L @ L.mT + torch.eye(n), torch.randn(batch, n).double(), G, (G @ x)[:, 0] + 1, A, (A @ x)[:, 0]]
    return [t.requires_grad_() for t in data]


@pytest.mark.parametrize("batch", [3, 100])
@pytest.mark.parametrize("throw", [False, True])
def test_only_throw_reads(batch, throw):
    data = program(batch)
    bound = torch.full((5,), 10.0, dtype=torch.float64)
    with Reads() as reads:
        solution = ol.solve_qp(*data, lb=-bound, ub=bound, throw=throw)
        assert len(reads.names) == int(throw), reads.names
        gradients = torch.autograd.grad(sum(t.sum() for t in solution[:5]), data, create_graph=True)
        torch.autograd.grad(sum((g**2).sum() for g in gradients), data)
        assert len(reads.names) == int(throw), reads.names
    assert all(g.isfinite().all() for g in gradients)


def test_forward_mode_reads_nothing():
    Q, *rest = program(3)
    with Reads() as reads:
        torch.func.jvp(lambda p: ol.solve_qp(Q, p, *rest[1:], throw=False).x, (rest[0],), (torch.ones_like(rest[0]),))
    assert not reads.names


def test_a_failed_sample_is_masked_without_a_look():
    data = program(3)
    with torch.no_grad():
        data[1][1, 0] = torch.nan
    with Reads() as reads:
        x = ol.solve_qp(*data, throw=False).x
        gradients = torch.autograd.grad(x[0].sum() + x[2].sum(), data)
    assert not reads.names
    assert x[1].isnan().all() and all(g.isfinite().all() for g in gradients)
