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
    return onto_simplex(*_radius("projection.simplex", x, radius))


def onto_simplex(x: Tensor, radius: Tensor) -> Tensor:
    """The projection of ``x (*batch, n)`` for a checked radius ``(*batch, 1)``, or ``(1,)``."""
    # A shift of x does not move its projection, and sums near the threshold then lose no digits.
    top = x.detach().amax(-1, keepdim=True)
    y = x - top
    support = simplex_support(flat(y, x.shape), flat(radius, (*x.shape[:-1], 1)).squeeze(-1)).reshape(x.shape)
    inside = torch.where(support, y, 0.0)
    threshold = (inside.sum(-1, keepdim=True) - radius) / support.sum(-1, keepdim=True).clamp(min=1)
    invalid = 0 * (top + radius.detach())  # 0, or NaN: then there is no support to carry it
    return torch.where(support, inside - threshold, invalid)


def sparse_simplex(x: Tensor, max_nonzeros: int, radius: Number = 1.0) -> Tensor:
    r"""Project onto the vectors of the simplex with few nonzeros, which is not a convex set.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2
              \quad\text{s.t.}\quad y \ge 0,\; \mathbf 1^\top y = r,\; \|y\|_0 \le k

    The simplex over the ``k`` largest entries; of equal entries, those that :func:`torch.topk` takes.

    Args:
        x: ``(*, n)`` float32 or float64; ``-inf`` masks an entry out.
        max_nonzeros: ``k``, from 1 to ``n``.
        radius: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose radius is negative, or in which all is masked.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; ``max_nonzeros`` out of range; a number ``radius < 0``.

    References: Kyrillidis et al., "Sparse projections onto the simplex" (2013).
    """
    function = "projection.sparse_simplex"
    check_point(function, x, radius=radius)
    if not 1 <= max_nonzeros <= x.shape[-1]:
        raise ValueError(f"{function}: max_nonzeros is {max_nonzeros}; expected 1 to {x.shape[-1]}, the entries of x.")
    x, radius = _radius(function, x, radius)
    largest = x.detach().topk(max_nonzeros, dim=-1).indices
    return torch.zeros_like(x).scatter(-1, largest, onto_simplex(x.gather(-1, largest), radius))


def l1_ball(x: Tensor, radius: Number = 1.0) -> Tensor:
    r"""Project onto the ball of the l1 norm.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad \|y\|_1 \le r

    On the sphere itself the derivative is that of the inside, the identity.

    Args:
        x: ``(*, n)`` float32 or float64.
        radius: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose radius is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; ``n = 0``; a number ``radius < 0``.

    References: Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions" (2008).
    """
    check_point("projection.l1_ball", x, radius=radius)
    x, radius = _radius("projection.l1_ball", x, radius)
    return torch.where(x.abs().sum(-1, keepdim=True) <= radius, x, _onto_l1_sphere(x, radius))


def l1_sphere(x: Tensor, radius: Number = 1.0) -> Tensor:
    r"""Project onto the sphere of the l1 norm, which is not convex.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad \|y\|_1 = r

    Where the sign of an entry of the projection is open, because that of ``x`` is zero, it is positive.

    Args:
        x: ``(*, n)`` float32 or float64.
        radius: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose radius is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; ``n = 0``; a number ``radius < 0``.
    """
    check_point("projection.l1_sphere", x, radius=radius)
    return _onto_l1_sphere(*_radius("projection.l1_sphere", x, radius))


def _onto_l1_sphere(x: Tensor, radius: Tensor) -> Tensor:
    sign = torch.where(x < 0, -1.0, 1.0).to(x.dtype)  # a constant, and nowhere zero: |x| = sign x has no kink in it
    return sign * onto_simplex(sign * x, radius)


def _radius(function: str, x: Tensor, radius: Number) -> tuple[Tensor, Tensor]:
    """`x` with the batch of both, and the radius as ``(*batch, 1)`` or ``(1,)``."""
    if x.shape[-1] == 0:
        raise ValueError(f"{function}: x has shape {tuple(x.shape)}; expected at least one entry in a sample.")
    radius, x = per_sample(function, "radius", nonnegative(function, "radius", radius), x)
    return x, radius
