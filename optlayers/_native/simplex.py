"""The support of the projection onto a simplex, by Newton's method on the threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from .search import search

# Rows at least this long are first cut down to the entries that can be in the support, usually a few of them.
_LONG = 512


def _empty(y: Tensor, radius: Tensor) -> Tensor:
    return torch.empty_like(y, dtype=torch.bool)


@search(_empty)
def simplex_support(y: Tensor, radius: Tensor) -> Tensor:
    """Where the projection of ``y (B, n)`` onto ``{x >= 0, sum(x) = radius}`` is positive, as ``(B, n)`` bool.

    ``y`` has a largest entry of 0, which the support contains, and ``radius (B,)`` is nonnegative. The sum over
    ``(y - t)+`` is convex and piecewise linear in the threshold ``t``; Newton's method from ``t = -radius``, where it
    is no less than the radius, increases ``t`` to the root in finitely many steps. NaN gives a full support.

    References: Michelot, "A finite algorithm for finding the projection of a point onto the canonical simplex of R^n"
    (1986); Condat, "Fast projection onto the simplex and the l1 ball" (2016).
    """
    threshold = -radius[:, None]
    candidates = y
    if y.shape[-1] >= _LONG and y.shape[0]:
        most = int((y > threshold).sum(-1).amax())
        if 4 * most < y.shape[-1]:
            candidates = y.topk(max(most, 1), sorted=False).values
    threshold = _newton(candidates, threshold, radius)
    # On the whole row, as the formula for the projection sums it: so its entries are positive, rounding included.
    return _support(y, _newton(y, threshold, radius) if candidates is not y else threshold)


def _support(y: Tensor, threshold: Tensor) -> Tensor:
    return ~(y <= threshold) | (y == 0)  # not y > t: a NaN, in either, is in the support and so in the result


def _newton(y: Tensor, threshold: Tensor, radius: Tensor) -> Tensor:
    support = _support(y, threshold)
    while True:
        threshold = (torch.where(support, y, 0.0).sum(-1, keepdim=True) - radius[:, None]) / support.sum(-1, True)
        smaller = _support(y, threshold) & support  # it shrinks anyway, but for rounding
        if torch.equal(smaller, support):
            return threshold
        support = smaller
