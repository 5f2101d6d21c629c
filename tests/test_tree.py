"""Trees as vectors: the flat view and its inverse, inner product and norm, at any scale, under transforms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optlayers._base import tree

shapes = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4)
batches = st.lists(st.integers(0, 3), max_size=2)


def make(batch, shapes):
    leaves = [torch.randn((*batch, *shape), dtype=torch.float64) for shape in shapes]
    return {"first": leaves[0], "rest": (leaves[1:],)}


@settings(max_examples=40, deadline=None)
@given(batches, shapes)
def test_ravel_is_undone_and_keeps_all_numbers(batch, shapes):
    value = make(batch, shapes)
    flat, unravel = tree.ravel(value, len(batch))
    size = sum(torch.Size(shape).numel() for shape in shapes)
    assert flat.shape == (*batch, size)
    back = unravel(flat)
    assert tree.flatten(back)[1] == tree.flatten(value)[1]
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(back), tree.leaves(value), strict=True))
    more = unravel(flat.expand(5, *flat.shape))
    assert all(a.shape == (5, *b.shape) for a, b in zip(tree.leaves(more), tree.leaves(value), strict=True))


@settings(max_examples=40, deadline=None)
@given(batches, shapes)
def test_dot_and_norm_sum_over_all_leaves_of_a_sample(batch, shapes):
    a, b = make(batch, shapes), make(batch, shapes)
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    expected = sum((x * y).flatten(len(batch)).sum(-1) if x.ndim > len(batch) else x * y for x, y in pairs)
    torch.testing.assert_close(tree.dot(a, b, len(batch)), expected)
    torch.testing.assert_close(tree.norm(a, len(batch)) ** 2, tree.dot(a, a, len(batch)))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float64, 1e200), (torch.float64, 1e-200), (torch.float32, 1e30), (torch.float32, 1e-30)],
)
def test_norm_has_no_scale_of_its_own(dtype, scale):
    value = [torch.tensor([3 * scale, 0], dtype=dtype), torch.tensor(-4 * scale, dtype=dtype)]
    assert tree.norm(value).item() == pytest.approx(5 * scale, rel=1e-6, abs=0)


def test_norm_of_zero_infinity_and_nan():
    rows = torch.tensor([[0.0, 0.0], [float("inf"), 1.0], [float("nan"), 1.0]])
    torch.testing.assert_close(
        tree.norm(rows, 1), torch.tensor([0.0, float("inf"), float("nan")]), rtol=0, atol=0, equal_nan=True
    )
    gradient = torch.func.grad(tree.norm)(torch.zeros(3))
    assert torch.equal(gradient, torch.zeros(3))


def test_norm_is_differentiable():
    value = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: tree.norm(v, 1), value)


def test_leaves_keep_their_dtypes_and_what_is_no_tensor_stays():
    value = {"a": torch.ones(2), "b": torch.ones((), dtype=torch.float64), "c": "name", "d": None, "e": 3}
    flat, unravel = tree.ravel(value)
    assert flat.dtype == torch.float64 and flat.shape == (3,)
    back = unravel(2 * flat)
    assert back["a"].dtype == torch.float32 and back["b"].dtype == torch.float64
    assert (back["c"], back["d"], back["e"]) == ("name", None, 3)
    tensors, rebuild = tree.partition(value)
    assert len(tensors) == 2 and rebuild([torch.zeros(1), torch.ones(1)])["b"].item() == 1


def test_vmap_and_compile_agree_with_the_loop():
    value = make([3], [[2], [], [0], [2, 2]])

    def numbers(v, batch_ndim=0):
        return tree.norm(v, batch_ndim), tree.dot(v, v, batch_ndim), tree.ravel(v, batch_ndim)[0]

    expected = numbers(value, 1)
    compiled = torch.compile(lambda v: numbers(v, 1), fullgraph=True, backend="eager")(value)
    for mapped, whole, eager in zip(torch.vmap(numbers)(value), compiled, expected, strict=True):
        torch.testing.assert_close(mapped, eager)
        torch.testing.assert_close(whole, eager)


@pytest.mark.parametrize("value", [{}, {"a": 1.0}, [torch.ones(2, 1), torch.ones(3, 1)], torch.tensor(1.0)])
def test_trees_without_a_common_batch_raise(value):
    with pytest.raises(ValueError, match="ravel: "):
        tree.ravel(value, 1)
