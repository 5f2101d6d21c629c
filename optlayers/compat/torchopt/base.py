"""TorchOpt's `GradientTransformation`: ours, made of functions of pytrees, with its call signature and ``.chain``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ... import optim
from ..._base import tree
from ..._base.tree import Tree


class EmptyState(NamedTuple):
    """The state of a transformation that has none."""


class UninitializedState(NamedTuple):
    """The state of an optimizer before its first step."""


class GradientTransformation(optim.GradientTransformation):
    """A pair of functions ``init(params)`` and ``update(updates, state, *, params=None, inplace=True)`` of pytrees.

    Both are called with flat lists of tensors, which are pytrees too, and without those whose gradient is None.
    """

    def __init__(self, init: Callable[[Tree], Any], update: Callable[..., tuple[Tree, Any]]):
        def on_lists(
            updates: list[Tensor], state: Any, params: list[Tensor] | None, overwrite: bool
        ) -> tuple[list[Tensor], Any]:
            updates, state = update(updates, state, params=params, inplace=overwrite)
            return list(updates), state

        super().__init__(lambda params: init(params), on_lists)

    def update(
        self, updates: Tree, state: Any, params: Tree | None = None, *, inplace: bool = True
    ) -> tuple[Tree, Any]:
        """The transformed updates, and the next state.

        `inplace` allows the state to be overwritten. It is not where something is recorded for a derivative.
        """
        recorded = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree.leaves((updates, state)))
        return super().update(updates, state, params, inplace=inplace and not recorded)

    def chain(self, next: optim.GradientTransformation) -> ChainedGradientTransformation:
        """This transformation and then another."""
        return ChainedGradientTransformation(self, next)


class ChainedGradientTransformation(GradientTransformation):
    """One transformation after the other; chains among them are unfolded."""

    def __init__(self, *transformations: optim.GradientTransformation):
        parts: list[optim.GradientTransformation] = []
        for part in transformations:
            parts += part.transformations if isinstance(part, ChainedGradientTransformation) else [part]
        self.transformations = tuple(parts)
        _take(self, optim.chain(*parts))


def adapt(transformation: optim.GradientTransformation) -> GradientTransformation:
    """One of ours with TorchOpt's call signature."""
    adapted = GradientTransformation.__new__(GradientTransformation)
    _take(adapted, transformation)
    return adapted


def bare(owner: str, transformation: optim.GradientTransformation) -> optim.GradientTransformation:
    """The other way: ours, whose ``update`` overwrites nothing unless told to.

    Raises:
        TypeError: it is none, naming `owner`.
    """
    if not isinstance(transformation, optim.GradientTransformation):
        raise TypeError(f"{owner}: impl is a {type(transformation).__name__}; expected a GradientTransformation.")
    return optim.GradientTransformation(transformation.init_list, transformation.update_list, transformation.step_list)


def identity() -> GradientTransformation:
    """Leave the updates as they are."""
    return adapt(optim.identity())


def _take(self: GradientTransformation, other: optim.GradientTransformation) -> None:
    optim.GradientTransformation.__init__(self, other.init_list, other.update_list, other.step_list)
