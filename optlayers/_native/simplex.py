"""The support of the projection onto a simplex, by Newton's method on the threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from .ops import call
from .search import search

# Rows at least this long are first cut down to the entries that can be in the support, usually a few of them.
_LONG = 512
# What a radius of zero is taken for, so that the largest entries are in the support of that as well.
_LEAST = 1e-30


def _empty(y: Tensor, radius: Tensor) -> Tensor:
    return torch.empty_like(y, dtype=torch.bool)


def simplex_point(x: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The projection of ``x (B, n)`` onto simplices of a radius ``(B,)``, or ``(1,)`` for all, and its support.

    For plain tensors on the CPU where the extension is there. NaN with an empty support where there is no projection.
    """
    x = x.contiguous()
    point, support = x.new_empty(*x.shape), x.new_empty(*x.shape, dtype=torch.bool)
    stride = radius.stride(0) if radius.shape[0] > 1 else 0
    addresses = x.data_ptr(), radius.data_ptr(), stride, point.data_ptr(), support.data_ptr()
    call("simplex", x.dtype, *x.shape, *addresses)
    return point, support


def simplex_pull(support: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """Cotangents of ``x (B, n)`` and of a radius ``(B,)``, of :func:`simplex_point`, and under its conditions."""
    cotangent = cotangent.contiguous()
    of_x, of_radius = cotangent.new_empty(*cotangent.shape), cotangent.new_empty(cotangent.shape[0])
    addresses = support.data_ptr(), cotangent.data_ptr(), of_x.data_ptr(), of_radius.data_ptr()
    call("simplex_backward", cotangent.dtype, *cotangent.shape, *addresses)
    return of_x, of_radius


def _compiled(y: Tensor, radius: Tensor) -> Tensor:
    radius = radius.clamp(min=_LEAST)
    # Again in the order in which the formula for the projection sums: so its entries are positive.
    return _newton(y, simplex_point(y, radius)[1], radius[:, None])[1]


@search(_empty, _compiled)
def simplex_support(y: Tensor, radius: Tensor) -> Tensor:
    """Where the projection of ``y (B, n)`` onto ``{x >= 0, sum(x) = radius}`` is positive, as ``(B, n)`` bool.

    ``y`` has a largest entry of 0, which the support contains, and ``radius (B,)`` is nonnegative. The sum over
    ``(y - t)+`` is convex and piecewise linear in the threshold ``t``; Newton's method from ``t = -radius``, where it
    is no less than the radius, increases ``t`` to the root in finitely many steps. NaN gives an empty support.

    References: Michelot, "A finite algorithm for finding the projection of a point onto the canonical simplex of R^n"
    (1986); Condat, "Fast projection onto the simplex and the l1 ball" (2016).
    """
    radius = radius.clamp(min=_LEAST)[:, None]
    candidates = y
    if y.shape[-1] >= _LONG and y.shape[0]:
        most = int((y > -radius).sum(-1).amax())
        if 4 * most < y.shape[-1]:
            candidates = y.topk(max(most, 1), sorted=False).values
    threshold, support = _newton(candidates, candidates > -radius, radius)
    # Again on the whole row, in the order in which the formula for the projection sums: so its entries are positive.
    return support if candidates is y else _newton(y, y > threshold, radius)[1]


def _newton(y: Tensor, support: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    count = support.sum(-1, keepdim=True)
    while True:
        threshold = (torch.where(support, y, 0.0).sum(-1, keepdim=True) - radius) / count
        smaller = y > threshold
        fewer = smaller.sum(-1, keepdim=True)
        if bool((fewer >= count).all()):  # never more, but for rounding
            return threshold, support
        support, count = smaller, fewer
