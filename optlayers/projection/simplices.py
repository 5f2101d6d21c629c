"""Projection onto simplices and onto the l1 sphere and ball, which are simplices of absolute values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._native.search import plain
from .._native.simplex import simplex_point, simplex_pull, simplex_support
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
    if plain(x, radius):
        return _fused(x, radius)
    return _by_formula(x, radius)


class _OntoSimplex(torch.autograd.Function):
    """The projection in two kernels, one for each pass; for reverse mode and plain tensors, where overhead dominates.

    The map is linear on its support, so that a backward pass which is itself differentiated, or batched, is a formula.
    """

    @staticmethod
    def forward(ctx, x, radius):
        point, support = simplex_point(x, radius)
        ctx.save_for_backward(support)
        ctx.radii = radius.shape[0]
        return point

    @staticmethod
    def backward(ctx, cotangent):
        (support,) = ctx.saved_tensors
        if plain(cotangent) and not torch.is_grad_enabled():
            of_x, of_radius = simplex_pull(support, cotangent)
        else:
            inside = torch.where(support, cotangent, 0.0)
            mean = inside.sum(-1, keepdim=True) / support.sum(-1, keepdim=True).clamp(min=1)
            of_x, of_radius = torch.where(support, inside - mean, 0.0), mean.squeeze(-1)
        return of_x, of_radius if ctx.radii == of_radius.shape[0] else of_radius.sum(0, keepdim=True)


# What Function.apply comes down to where there is no transform to prepare for: a fifth of its overhead.
_apply_plainly = super(torch.autograd.Function, _OntoSimplex).apply  # pyright: ignore[reportAttributeAccessIssue]


def _fused(x: Tensor, radius: Tensor) -> Tensor:
    shape = x.shape
    if x.dim() != 2:
        x = x.reshape(math.prod(shape[:-1]), shape[-1])
    if radius.dim() != 1:
        radius = flat(radius, (*shape[:-1], 1)).squeeze(-1)
    if torch.is_grad_enabled() and (x.requires_grad or radius.requires_grad):
        point = _apply_plainly(x, radius)
    else:
        point = simplex_point(x, radius)[0]
    return point if len(shape) == 2 else point.reshape(shape)


def _by_formula(x: Tensor, radius: Tensor) -> Tensor:
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
