"""Projection onto simplices and onto the l1 sphere and ball, which are simplices of absolute values."""

from __future__ import annotations

import torch
from torch import Tensor

from .._native.simplex import simplex_support
from ._arguments import Number, check_point, flat, nonnegative, per_sample


def simplex(x: Tensor, radius: Number = 1.0) -> Tensor:
    r"""Project onto the simplex.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad y \ge 0,\; \mathbf 1^\top y = r

    With a radius of one this is sparsemax. Entries of ``-inf`` are masked out: they give 0 and get gradient 0. Where an
    entry is about to leave the support, the derivative is that of the side on which it has left.

    Args:
        x: ``(*, n)`` float32 or float64.
        radius: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose radius is negative, or in which all is masked.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; ``n = 0``; a number ``radius < 0``.

    References: Michelot (1986); Condat, "Fast projection onto the simplex and the l1 ball" (2016); Martins and
    Astudillo, "From softmax to sparsemax" (2016).
    """
    check_point("projection.simplex", x, radius=radius)
    radius, x = per_sample("projection.simplex", "radius", nonnegative("projection.simplex", "radius", radius), x)
    if x.shape[-1] == 0:
        raise ValueError(f"projection.simplex: x has shape {tuple(x.shape)}; a simplex needs at least one entry.")
    return onto_simplex(x, radius)


def onto_simplex(x: Tensor, radius: Tensor) -> Tensor:
    """The projection of ``x (*batch, n)`` for a checked radius ``(*batch, 1)``, or ``(1,)``."""
    # A shift of x does not move its projection, and sums near the threshold then lose no digits.
    y = x - x.detach().amax(-1, keepdim=True)
    support = simplex_support(flat(y, x.shape), flat(radius, (*x.shape[:-1], 1)).squeeze(-1)).reshape(x.shape)
    inside = torch.where(support, y, 0.0)
    threshold = (inside.sum(-1, keepdim=True) - radius) / support.sum(-1, keepdim=True)
    return torch.where(support, inside - threshold, 0.0)
