"""Projection onto balls, spheres and boxes: closed forms, entry by entry or along the ray through the point."""

from __future__ import annotations

import torch
from torch import Tensor

from .._base.numeric import norm
from ._arguments import Number, check_point, nonnegative, per_sample, vectors


def l2_ball(x: Tensor, radius: Number = 1.0) -> Tensor:
    r"""Project onto the Euclidean ball.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad \|y\|_2 \le r

    On the sphere itself the derivative is that of the inside, the identity.

    Args:
        x: ``(*, n)`` float32 or float64.
        radius: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose radius is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``radius < 0``.
    """
    check_point("projection.l2_ball", x, radius=radius)
    radius, x = per_sample("projection.l2_ball", "radius", nonnegative("projection.l2_ball", "radius", radius), x)
    length = norm(x)
    inside = length <= radius
    return torch.where(inside, x, x * (radius / torch.where(inside, 1.0, length)))


def l2_sphere(x: Tensor, radius: Number = 1.0) -> Tensor:
    r"""Project onto the Euclidean sphere, which is not convex.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad \|y\|_2 = r

    All of the sphere is nearest to ``x = 0``; it gives ``(r, 0, ..., 0)``, with a derivative of zero with respect to x.

    Args:
        x: ``(*, n)`` float32 or float64.
        radius: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose radius is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``radius < 0``.
    """
    check_point("projection.l2_sphere", x, radius=radius)
    radius, x = per_sample("projection.l2_sphere", "radius", nonnegative("projection.l2_sphere", "radius", radius), x)
    length = norm(x)
    center = length == 0
    first = torch.arange(x.shape[-1], device=x.device) == 0
    direction = torch.where(center, first.to(x.dtype), x / torch.where(center, 1.0, length))
    return radius * direction


def linf_ball(x: Tensor, radius: Number = 1.0) -> Tensor:
    r"""Project onto the ball of the maximum norm.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad \|y\|_\infty \le r

    Args:
        x: ``(*, n)`` float32 or float64.
        radius: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose radius is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``radius < 0``.
    """
    check_point("projection.linf_ball", x, radius=radius)
    radius, x = per_sample("projection.linf_ball", "radius", nonnegative("projection.linf_ball", "radius", radius), x)
    return onto_box(x, -radius, radius)


def box(x: Tensor, lower: Number, upper: Number) -> Tensor:
    r"""Project onto a box.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad l \le y \le u

    On a bound itself the derivative is that of the inside.

    Args:
        x: ``(*, n)`` float32 or float64.
        lower, upper: numbers, or ``(*, n)``; leading dimensions broadcast. They may hold ``-inf`` and ``inf``.

    Returns:
        ``(*, n)``; NaN at entries with ``lower > upper``.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; numbers with ``lower > upper``.
    """
    check_point("projection.box", x, lower=lower, upper=upper)
    x, lower, upper = vectors("projection.box", x, lower=lower, upper=upper)
    return onto_box(x, lower, upper)


def hypercube(x: Tensor, size: Number = 1.0) -> Tensor:
    r"""Project onto the hypercube with a corner at zero.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad 0 \le y \le s

    Args:
        x: ``(*, n)`` float32 or float64.
        size: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose size is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``size < 0``.
    """
    check_point("projection.hypercube", x, size=size)
    size, x = per_sample("projection.hypercube", "size", nonnegative("projection.hypercube", "size", size), x)
    return onto_box(x, torch.zeros_like(size), size)


def onto_box(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The projection for checked bounds; not by clamp, whose derivative at ``lower = upper`` counts both."""
    inside = torch.where(x > upper, upper, torch.where(x < lower, lower, x))
    return torch.where(lower <= upper, inside, torch.nan)
