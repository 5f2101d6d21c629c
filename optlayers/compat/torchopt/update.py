"""TorchOpt's `apply_updates`, which is in place by default."""

from __future__ import annotations

from ... import optim
from ..._base.tree import Tree

__all__ = ["apply_updates"]


def apply_updates(params: Tree, updates: Tree, *, inplace: bool = True) -> Tree:
    """:func:`~optlayers.optim.apply_updates`: ``params + updates``, unrecorded if `inplace`."""
    return optim.apply_updates(params, updates, inplace=inplace)
