"""TorchOpt's pytrees, the part of them that its programs use, on those of torch: None is no leaf unless told so.

Of the functions of optree there are those below, without ``is_leaf`` and ``namespace``.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._base import tree
from ..._base.tree import Tree

__all__ = [
    "PyTreeSpec", "all_leaves", "tree_add", "tree_add_scalar_mul", "tree_all", "tree_any", "tree_flatten",
    "tree_flatten_as_tuple", "tree_leaves", "tree_map", "tree_map_", "tree_matmul", "tree_max", "tree_min",
    "tree_mul", "tree_neg", "tree_pos", "tree_reduce", "tree_scalar_mul", "tree_structure", "tree_sub",
    "tree_sub_scalar_mul", "tree_sum", "tree_truediv", "tree_unflatten", "tree_vdot_real", "tree_wait",
]  # fmt: skip


class PyTreeSpec(NamedTuple):
    """The structure of a tree, and at which of its places there are leaves."""

    structure: Any
    places: tuple[int, ...]
    size: int

    @property
    def num_leaves(self) -> int:
        """How many leaves there are."""
        return len(self.places)

    def unflatten(self, leaves: Any) -> Tree:
        """The tree with these leaves."""
        return tree_unflatten(self, leaves)


def tree_flatten(tree_: Tree, *, none_is_leaf: bool = False) -> tuple[list[Any], PyTreeSpec]:
    """The leaves in order, and the structure for :func:`tree_unflatten`."""
    leaves, structure = tree.flatten(tree_)
    places = tuple(place for place, leaf in enumerate(leaves) if none_is_leaf or leaf is not None)
    return [leaves[place] for place in places], PyTreeSpec(structure, places, len(leaves))


def tree_flatten_as_tuple(tree_: Tree, *, none_is_leaf: bool = False) -> tuple[tuple[Any, ...], PyTreeSpec]:
    """:func:`tree_flatten` with a tuple."""
    leaves, spec = tree_flatten(tree_, none_is_leaf=none_is_leaf)
    return tuple(leaves), spec


def tree_unflatten(treespec: PyTreeSpec, leaves: Any) -> Tree:
    """The tree of this structure with these leaves.

    Raises:
        ValueError: another number of leaves.
    """
    given = list(leaves)
    if len(given) != len(treespec.places):
        raise ValueError(f"tree_unflatten: got {len(given)} leaves; expected {len(treespec.places)}.")
    filled: list[Any] = [None] * treespec.size
    for place, leaf in zip(treespec.places, given, strict=True):
        filled[place] = leaf
    return tree.unflatten(filled, treespec.structure)


def tree_leaves(tree_: Tree, *, none_is_leaf: bool = False) -> list[Any]:
    """The leaves in order."""
    return tree_flatten(tree_, none_is_leaf=none_is_leaf)[0]


def tree_structure(tree_: Tree, *, none_is_leaf: bool = False) -> PyTreeSpec:
    """The structure."""
    return tree_flatten(tree_, none_is_leaf=none_is_leaf)[1]


def all_leaves(iterable: Any, *, none_is_leaf: bool = False) -> bool:
    """Whether every element is a leaf."""
    return all(
        (none_is_leaf if item is None else tree.leaves(item)[:1] == [item]) if not isinstance(item, Tensor) else True
        for item in iterable
    )


def tree_map(func: Callable[..., Any], tree_: Tree, *rests: Tree, none_is_leaf: bool = False) -> Tree:
    """``func`` over corresponding leaves; where the first tree has None there is None.

    Raises:
        ValueError: trees of another structure.
    """

    def mapped(leaf: Any, *others: Any) -> Any:
        return func(leaf, *others) if none_is_leaf or leaf is not None else None

    return tree.map(mapped, tree_, *rests)


def tree_map_(func: Callable[..., Any], tree_: Tree, *rests: Tree, none_is_leaf: bool = False) -> Tree:
    """Call ``func`` on corresponding leaves and return the first tree."""
    tree_map(func, tree_, *rests, none_is_leaf=none_is_leaf)
    return tree_


def tree_reduce(func: Callable[[Any, Any], Any], tree_: Tree, *initial: Any, none_is_leaf: bool = False) -> Any:
    """``func`` over the leaves, two at a time, beginning with `initial` if that is given."""
    return functools.reduce(func, tree_leaves(tree_, none_is_leaf=none_is_leaf), *initial)


def tree_sum(tree_: Tree, start: Any = 0) -> Any:
    """The sum of the leaves."""
    return sum(tree_leaves(tree_), start)


def tree_max(tree_: Tree) -> Any:
    """The largest leaf."""
    return max(tree_leaves(tree_))


def tree_min(tree_: Tree) -> Any:
    """The smallest leaf."""
    return min(tree_leaves(tree_))


def tree_all(tree_: Tree) -> bool:
    """Whether all leaves are true."""
    return all(tree_leaves(tree_))


def tree_any(tree_: Tree) -> bool:
    """Whether some leaf is true."""
    return any(tree_leaves(tree_))


def tree_pos(tree: Tree) -> Tree:
    """``+tree``"""
    return tree_map(operator.pos, tree)


def tree_neg(tree: Tree) -> Tree:
    """``-tree``"""
    return tree_map(operator.neg, tree)


def tree_add(*trees: Tree) -> Tree:
    """The sum of trees, leaf by leaf."""
    return tree_map(lambda *leaves: functools.reduce(operator.add, leaves), *trees)


def tree_mul(*trees: Tree) -> Tree:
    """The product of trees, leaf by leaf."""
    return tree_map(lambda *leaves: functools.reduce(operator.mul, leaves), *trees)


def tree_matmul(*trees: Tree) -> Tree:
    """The matrix product of trees, leaf by leaf."""
    return tree_map(lambda *leaves: functools.reduce(operator.matmul, leaves), *trees)


def tree_sub(minuend_tree: Tree, subtrahend_tree: Tree) -> Tree:
    """The difference of two trees."""
    return tree_map(operator.sub, minuend_tree, subtrahend_tree)


def tree_truediv(dividend_tree: Tree, divisor_tree: Tree) -> Tree:
    """The quotient of two trees."""
    return tree_map(operator.truediv, dividend_tree, divisor_tree)


def tree_scalar_mul(scalar: Any, multiplicand_tree: Tree) -> Tree:
    """``scalar * tree``"""
    return tree_map(lambda leaf: scalar * leaf, multiplicand_tree)


def tree_add_scalar_mul(tree_x: Tree, tree_y: Tree, alpha: Any = None) -> Tree:
    """``x + alpha y``"""
    return tree_map(lambda x, y: x + (y if alpha is None else alpha * y), tree_x, tree_y)


def tree_sub_scalar_mul(tree_x: Tree, tree_y: Tree, alpha: Any = None) -> Tree:
    """``x - alpha y``"""
    return tree_map(lambda x, y: x - (y if alpha is None else alpha * y), tree_x, tree_y)


def tree_vdot_real(tree_x: Tree, tree_y: Tree) -> Any:
    """The inner product, over all leaves, of real tensors: a 0-d tensor, differentiable."""
    return tree.dot(tree_x, tree_y)


def tree_wait(future_tree: Tree) -> Tree:
    """The results of a tree of futures."""
    futures, spec = tree_flatten(future_tree)
    return tree_unflatten(spec, torch.futures.wait_all(futures))
