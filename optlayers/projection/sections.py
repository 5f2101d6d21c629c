"""Projection onto a box cut by a hyperplane, and the capped simplex, which is one."""

from __future__ import annotations

import torch
from torch import Tensor

from .._native.knapsack import knapsack_bounds
from ._arguments import Number, check_point, flat, per_sample, vectors


def box_section(x: Tensor, lower: Number, upper: Number, a: Tensor, b: Number) -> Tensor:
    r"""Project onto the section of a box with a hyperplane.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad l \le y \le u,\; a^\top y = b

    Where no entry is strictly between its bounds, the projection is a vertex, with a derivative of zero but for what
    the bounds pass on.

    Args:
        x: ``(*, n)`` float32 or float64.
        lower, upper: numbers, or ``(*, n)``; they may hold ``-inf`` and ``inf``.
        a: ``(*, n)``.
        b: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples that no point satisfies.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit.

    References: Kiwiel, "Variable fixing algorithms for the continuous quadratic knapsack problem" (2008).
    """
    check_point("projection.box_section", x, lower=lower, upper=upper, a=a, b=b)
    x, lower, upper, a = vectors("projection.box_section", x, lower=lower, upper=upper, a=a)
    b, x = per_sample("projection.box_section", "b", b, x)
    return _onto_section(x, lower, upper, a, b)


def capped_simplex(x: Tensor, total: Number) -> Tensor:
    r"""Project onto the capped simplex, the convex hull of the vectors of ``k`` ones and ``n - k`` zeros.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad 0 \le y \le 1,\; \mathbf 1^\top y = k

    A soft choice of the ``k`` largest entries. Entries of ``-inf`` are masked out: they give 0 and get gradient 0.

    Args:
        x: ``(*, n)`` float32 or float64.
        total: ``k``, a number, or ``(*)``; leading dimensions broadcast. It need not be whole.

    Returns:
        ``(*, n)``; NaN in samples whose ``k`` is negative or more than there are entries not masked.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``k`` below 0 or above ``n``.

    References: Wang and Lu, "Projection onto the capped simplex" (2015).
    """
    check_point("projection.capped_simplex", x, total=total)
    if not isinstance(total, Tensor) and not 0 <= total <= x.shape[-1]:
        n = x.shape[-1]
        raise ValueError(
            f"projection.capped_simplex: total is {total}; expected a number from 0 to {n}, as x has {n} entries."
        )
    total, x = per_sample("projection.capped_simplex", "total", total, x)
    masked = x == -torch.inf
    one = torch.ones_like(x)
    return _onto_section(torch.where(masked, 0.0, x), 0 * one, torch.where(masked, 0.0, one), one, total)


def _onto_section(x: Tensor, lower: Tensor, upper: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The projection for arguments expanded to one batch, ``b (*, 1)``."""
    shape = x.shape
    side, multiplier = knapsack_bounds(
        *[flat(value, shape) for value in (x, lower, upper, a)], flat(b, (*shape[:-1], 1)).squeeze(-1)
    )
    side, multiplier = side.reshape(shape), multiplier.reshape(*shape[:-1], 1)
    free = side == 0
    bound = torch.where(side < 0, lower, torch.where(side > 0, upper, 0.0))
    # Moved by the constant multiplier first, so that the sums have the size of the result, not of x.
    near = x - multiplier * a
    weight = torch.where(free, a * a, 0.0).sum(-1, keepdim=True)
    surplus = (a * torch.where(free, near, bound)).sum(-1, keepdim=True) - b
    rest = surplus / torch.where(weight > 0, weight, 1.0)
    y = torch.where(free, near - rest * a, bound)
    size = (a * y).abs().sum(-1, keepdim=True) + b.abs()
    feasible = ((a * y).sum(-1, keepdim=True) - b).abs() <= torch.finfo(x.dtype).eps ** 0.5 * size
    return torch.where(feasible & (lower <= upper).all(-1, keepdim=True), y, torch.nan)
