"""The scalar roots that projections onto the exponential and the power cone come down to, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .search import search

# Roots are looked for in [-LIMIT, LIMIT]: the cube of their exponential, met in derivatives, is still a number.
LIMIT = 200.0
_MAX_STEPS = 200
_NEAR = 1e-6  # ratio of two sides from which on their logarithms are compared
_STILL = 1e-12  # a Newton step so small is the last


def _like_first_column(v: Tensor, *others: Tensor) -> Tensor:
    return v.new_empty(v.shape[0])


def exponential_curve(v: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """At the ratio ``root`` on the exponential cone: how far z is passed, the slope of that, and the point ``(B, 3)``.

    The ray through ``(root, 1, exp(root))`` and the polar ray orthogonal to it, with the factors that make x and y come
    out, overshoot ``z`` by a function that increases with the ratio.
    """
    x, y, z = v.unbind(-1)
    q = root * (root - 1) + 1
    dq = 2 * root - 1
    primal, polar = ((root - 1) * x + y) / q, (x - root * y) / q
    d_primal, d_polar = (x - primal * dq) / q, -(y + polar * dq) / q
    up, down = root.exp(), (-root).exp()
    excess = primal * up - polar * down - z
    slope = (d_primal + primal) * up + (polar - d_polar) * down
    # For a large ratio the primal factor is a difference of close numbers, and what is left of z is accurate.
    height = torch.where(root > 0, z + polar * down, primal * up)
    depth = torch.where(root > 0, height * down, primal)
    return excess, slope, torch.stack([root * depth, depth, height], -1)


@search(_like_first_column)
def exponential_root(v: Tensor) -> Tensor:
    """The ratio x/y ``(B,)`` of the projection of ``v (B, 3)`` onto the exponential cone, for x > 0 or y > 0.

    v is in neither the cone nor its polar. NaN where the ratio is beyond LIMIT.

    References: Friberg, "Projection onto the exponential cone: a univariate root-finding problem" (2023).
    """
    x, y, _ = v.unbind(-1)
    # Between the ends both factors are positive.
    lower = torch.where(x > 0, 1 - y / torch.where(x > 0, x, 1.0), -torch.inf).clamp(min=-LIMIT)
    upper = torch.where(y > 0, x / torch.where(y > 0, y, 1.0), torch.inf).clamp(max=LIMIT)
    at_lower, at_upper = (exponential_curve(v, end)[0] for end in (lower, upper))
    beyond = (lower >= upper) | ((x <= 0) & (at_lower > 0)) | ((y <= 0) & (at_upper < 0))
    # To find the root, the balance; to have its last digits, the curve itself.
    root = _bracketed_root(lambda ratio: _balance(v, ratio), lower, upper)
    excess, slope, _ = exponential_curve(v, root)
    polished = root - excess / slope
    root = torch.where((polished - root).abs() < 1e-6, polished, root)
    return torch.where(beyond, torch.nan, root)


def _balance(v: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """The difference of the two sides of :func:`exponential_curve`; near the root that of their logarithms.

    It is nearly linear, where the sides themselves would hold Newton's method to steps of one.
    """
    x, y, z = v.unbind(-1)
    q, dq = root * (root - 1) + 1, 2 * root - 1
    primal, polar = ((root - 1) * x + y) / q, (x - root * y) / q
    d_primal, d_polar = (x - primal * dq) / q, -(y + polar * dq) / q
    up, down = root.exp(), (-root).exp()
    left, right = primal * up, polar * down + z
    d_left, d_right = (d_primal + primal) * up, (d_polar - polar) * down
    both = (left > _NEAR * right) & (right > _NEAR * left)
    left, right = torch.where(both, left, 1.0), torch.where(both, right, 1.0)
    value = torch.where(both, left.log() - right.log(), primal * up - polar * down - z)
    return value, torch.where(both, d_left / left - d_right / right, d_left - d_right)


def power_curve(v: Tensor, alpha: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """At ``r = |z| sigmoid(root)`` for the power cone: log r over the geometric mean, its slope, and ``(x, y, r)``.

    For the right r the stationarity conditions in x and y, quadratic equations, give the point.
    """
    x, y, z = v.unbind(-1)
    height = z.abs()
    up, down = torch.sigmoid(root), torch.sigmoid(-root)
    r, product = height * up, height * height * up * down
    d_product = product * (down - up)
    px, dx = _positive_root(x, alpha * product, alpha * d_product)
    py, dy = _positive_root(y, (1 - alpha) * product, (1 - alpha) * d_product)
    value = r.log() - alpha * px.log() - (1 - alpha) * py.log()
    return value, down - alpha * dx - (1 - alpha) * dy, torch.stack([px, py, r], -1)


def _positive_root(x: Tensor, c: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
    """The positive root p of ``p^2 - x p - c = 0`` and the derivative of its logarithm along dc."""
    s = (x * x + 4 * c).sqrt()
    p = torch.where(x > 0, (s + x.abs()) / 2, 2 * c / (s + x.abs()))  # no difference of numbers that are close
    return p, dc / (s * p)


@search(_like_first_column)
def power_root(v: Tensor, alpha: Tensor) -> Tensor:
    """``log(r / (|z| - r))`` ``(B,)`` for ``r`` the |z| of the projection of ``v (B, 3)`` onto the power cone.

    v is in neither the cone nor its polar, and its z is not zero; ``alpha (B,)`` is between 0 and 1.

    References: Hien, "Differential properties of Euclidean projection onto power cone" (2015).
    """
    ends = torch.full_like(alpha, LIMIT)
    return _bracketed_root(lambda root: power_curve(v, alpha, root)[:2], -ends, ends)


def _bracketed_root(fn: Callable[[Tensor], tuple[Tensor, Tensor]], lower: Tensor, upper: Tensor) -> Tensor:
    """The root of an increasing function, given with its slope: Newton's method, bisection where that is slower."""
    x, last = (lower + upper) / 2, upper - lower
    for _ in range(_MAX_STEPS):
        value, slope = fn(x)
        lower, upper = torch.where(value < 0, x, lower), torch.where(value > 0, x, upper)
        newton = torch.clamp(x - value / slope, lower, upper)  # the root may be an end
        step, still = (newton - x).abs(), _STILL * (1 + x.abs())
        # Where the function is flat, rounding may turn its slope, and a step out of the bracket would end as none.
        fits = (slope > 0) & ((step < 0.75 * last) | (step <= still))
        proposal = torch.where(fits, newton, (lower + upper) / 2)
        last = (proposal - x).abs()
        x = proposal
        if not (last > still).any():
            break
    return x
