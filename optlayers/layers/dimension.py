"""The dimension that a layer works along."""

from __future__ import annotations

from torch import Tensor

from .._base.checks import check_tensors


def to_last(name: str, x: Tensor, dim: int, **others: Tensor | None) -> Tensor:
    """`x` with `dim` moved to the end; checks its dtype, which `others` must share, and that it has entries there."""
    check_tensors(name, {"x": x, **others})
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"{name}: x has shape {tuple(x.shape)}; expected a dimension {dim}.")
    if x.shape[dim] == 0:
        raise ValueError(f"{name}: x has shape {tuple(x.shape)}; expected at least one entry along dimension {dim}.")
    return x.movedim(dim, -1)
