"""The compiled searches held to their plain-torch twins: supports, thresholds, blocks."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import jacrev, vmap

from optlayers import _native, projection
from optlayers._native.chain import chain_blocks, segment_mean
from optlayers._native.simplex import simplex_support
from optlayers._native.threshold import entmax_point
from optlayers.projection import simplices

pytestmark = pytest.mark.skipif(not _native.available(), reason="no compiled kernels")

F64, INF = torch.float64, float("inf")
DTYPES = [torch.float32, F64]
SIZES = [*range(1, 71), 1000]


def tolerance(dtype):
    return 1e-12 if dtype == F64 else 1e-5


def rows(batch, n, dtype, seed=0, scale=1.0):
    return (scale * torch.randn(batch, n, dtype=F64, generator=torch.Generator().manual_seed(seed))).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [SIZES, [100_000]], ids=["small", "large"])
def test_simplex_matches_its_formula(sizes, dtype):
    for n in sizes:
        x = rows(6, n, dtype, n)
        x[1] = torch.round(2 * x[1])  # ties
        x[2, n // 3 :: 3] = -INF
        x[3] = 0.25
        x[2, 0] = 0.5
        x[5, -1] = float("nan")
        radius = torch.tensor([1.0, 0.5, 1.0, 2.0, 0.0, 1.0], dtype=dtype)
        leaves = [x.clone().requires_grad_(), radius.clone().requires_grad_()]
        copies = [x.clone().requires_grad_(), radius.clone().requires_grad_()]
        y = projection.simplex(*leaves)
        expected = simplices._by_formula(copies[0], copies[1][:, None])
        assert "_OntoSimplex" in type(y.grad_fn).__name__
        torch.testing.assert_close(y, expected, rtol=0, atol=tolerance(dtype), equal_nan=True)
        assert (y[:5] >= 0).all() and y[5].isnan().all()
        assert (y[4] == 0).all()
        upstream = rows(6, n, dtype, n + 1)
        grads, wanted = (torch.autograd.grad(v, w, upstream) for v, w in ((y, leaves), (expected, copies)))
        for grad, want in zip(grads, wanted, strict=True):
            torch.testing.assert_close(grad, want, rtol=tolerance(dtype), atol=10 * tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_support_matches_its_twin(dtype):
    for n in [*SIZES, 100_000]:
        y = rows(5, n, dtype, n)
        y[1] = torch.round(2 * y[1])
        y = y - y.amax(-1, keepdim=True)
        y[3, 1:] = -INF
        y[3, 0] = 0
        radius = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.3 * n], dtype=dtype)
        support = simplex_support(y, radius)
        assert torch.equal(support, simplex_support.__wrapped__(y, radius))
        assert torch.equal(support, torch.ops.optlayers.simplex_support(y, radius))


def test_a_tiny_or_infinite_radius():
    x = torch.tensor([[0.3, 0.3, -1.0]], dtype=F64)
    torch.testing.assert_close(
        projection.simplex(x, 2e-40), torch.tensor([[1e-40, 1e-40, 0]], dtype=F64), rtol=1e-9, atol=0
    )
    assert projection.simplex(x, INF).isinf().all()


def test_simplex_is_differentiable_at_all_orders_on_the_fused_route():
    x, radius = rows(3, 6, F64).requires_grad_(), torch.tensor([1.0, 0.7, 2.0], dtype=F64, requires_grad=True)
    assert gradcheck(projection.simplex, (x, radius), check_batched_grad=True, check_forward_ad=True)
    assert gradgradcheck(lambda *v: projection.simplex(*v) ** 3, (x, radius), check_batched_grad=True)
    assert gradcheck(lambda v, r: projection.simplex(v.mT.contiguous().mT, r), (x, radius[0]))
    whole = torch.autograd.functional.jacobian(lambda v: projection.simplex(v, 1.3), x[0].detach())
    torch.testing.assert_close(jacrev(lambda v: projection.simplex(v, 1.3))(x[0].detach()), whole)


def test_forward_mode_goes_past_the_fused_route():
    x, tangent = rows(2, 5, F64), rows(2, 5, F64, 1)
    with forward_ad.dual_level():
        y = projection.simplex(forward_ad.make_dual(x, tangent))
        moved = forward_ad.unpack_dual(y).tangent
    jacobian = torch.stack([jacrev(projection.simplex)(row) for row in x])
    torch.testing.assert_close(moved, (jacobian @ tangent[..., None]).squeeze(-1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_entmax_matches_its_twin(alpha, dtype):
    for n in [*SIZES, 100_000]:
        x = rows(5, n, dtype, n, scale=3)
        x[1] = torch.round(x[1])
        x[2, 1:] = -INF
        x[3, -1] = float("nan")
        x[4] = -INF
        order = x.new_full((5,), alpha)
        p = entmax_point(x, order)
        expected = entmax_point.__wrapped__(x, order)
        torch.testing.assert_close(p, expected, rtol=0, atol=tolerance(dtype), equal_nan=True)
        assert torch.equal(entmax_point(x.mT.contiguous().mT, order).nan_to_num(), p.nan_to_num())


PENALTIES = [(0.0, INF), (INF, 0.0), (0.3, 0.3), (INF, INF), (0.2, 0.7), (5.0, 0.1), (0.0, 0.0), (1.0, INF)]


def penalties(dtype):
    up, down = torch.tensor(PENALTIES, dtype=dtype).unbind(-1)
    return up, down


def chain_value(x, labels, jumps, up, down):
    force = torch.where(jumps > 0, up[:, None], torch.where(jumps < 0, -down[:, None], 0.0))
    return segment_mean(x + force - torch.nn.functional.pad(force, (1, 0))[:, :-1], labels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chain_matches_its_twin(dtype):
    up, down = penalties(dtype)
    for n in [*range(1, 71, 1 if dtype == F64 else 5), 1000]:
        for x in (rows(8, n, dtype, n), 0.1 * rows(8, n, dtype, n).cumsum(-1) + 1000):
            labels, jumps = chain_blocks(x, up, down)
            wanted_labels, wanted_jumps = chain_blocks.__wrapped__(x, up, down)
            assert torch.equal(labels, wanted_labels) and torch.equal(jumps, wanted_jumps), n


def test_chain_with_ties_has_the_twins_solution_in_as_few_blocks():
    up, down = penalties(F64)
    for n in range(1, 71, 3):
        x = torch.round(2 * rows(8, n, F64, n))
        ours, twin = chain_blocks(x, up, down), chain_blocks.__wrapped__(x, up, down)
        torch.testing.assert_close(
            chain_value(x, ours[0], ours[1], up, down), chain_value(x, twin[0], twin[1], up, down), rtol=0, atol=1e-12
        )
        assert (ours[0][:, -1] <= twin[0][:, -1]).all()


def test_chain_rows_are_strangers():
    x = rows(5, 30, F64)
    none, all_ = torch.zeros(5, dtype=F64), torch.full((5,), INF, dtype=F64)
    labels, jumps = chain_blocks(x, none, all_)
    x[1, 3], x[2, 0], none[3] = float("nan"), INF, float("nan")
    spoilt = chain_blocks(x, none, all_)
    for now, before in zip(spoilt, (labels, jumps), strict=True):
        assert (now[1:4] == 0).all() and torch.equal(now[[0, 4]], before[[0, 4]])


@pytest.mark.parametrize("project", [projection.simplex, projection.isotonic], ids=["simplex", "isotonic"])
def test_threads_batches_and_maps_agree(project):
    x = rows(400, 33, F64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = project(x)
        torch.set_num_threads(2)
        two = project(x)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)
    assert torch.equal(one, torch.stack([project(row) for row in x]))
    torch.testing.assert_close(vmap(project)(x), one, rtol=0, atol=1e-14)
    assert torch.equal(project(x.reshape(20, 20, 33)).reshape(400, 33), one)
    assert project(x[:0]).shape == (0, 33)
    assert torch.equal(project(x.mT.contiguous().mT), one)
