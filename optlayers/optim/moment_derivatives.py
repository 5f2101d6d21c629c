"""Products of the derivative of a step with moments (OPT-1) in torch, as `updates.h` of the native core has them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._native.update_ops import Moments, Second
from .lists import smallest

Entry = tuple[Any, Any, Any, Any, Any]  # g, p, m, v, largest v of one tensor; 0.0 for what there is not
Next = tuple[Any, Any, Any, Any]  # u, m, v, largest v


class _Way(NamedTuple):
    """What derivatives need of the step."""

    h: Tensor
    m: Any
    v: Any
    slope: Any  # of the root in w, or in v for MAXIMUM; times sigma
    inverse: Any  # of the denominator
    quotient: Tensor
    kept: Any  # the share of a maximum that goes to its first argument


def pull(c: Moments, entry: Entry, bar: Next) -> Entry:
    """From the cotangents of ``(u, m, v, top)`` those of ``(g, p, m, v, top)``."""
    of_u, of_m, of_v, of_top = bar
    way = _way(c, entry)
    of_mean = of_u * way.inverse
    of_root = -of_mean * way.quotient * way.slope
    of_h, of_m = c.beta * of_mean, of_m + c.alpha * of_mean
    top: Any = 0.0
    if c.second == Second.LARGEST:
        of_top = of_top + of_root
        top, of_v = way.kept * of_top, of_v + (1 - way.kept) * of_top
    else:
        of_v = of_v + of_root
    if c.second == Second.CENTERED:
        of_m = of_m - 2 * way.m * of_root
    if c.second == Second.MAXIMUM:
        of_h = of_h + (1 - way.kept) * of_v * torch.sign(way.h)
        of_v = way.kept * of_v
    elif c.second != Second.NONE:
        of_h = of_h + 2 * c.weights()[1] * way.h * of_v
    of_h = of_h + c.weights()[0] * of_m
    return c.gradient * of_h, c.decay * of_h + c.shrink * of_u, c.keep1 * of_m, c.keep2 * of_v, top


def push(c: Moments, entry: Entry, dot: Entry) -> Next:
    """From the tangents of ``(g, p, m, v, top)`` those of ``(u, m, v, top)``."""
    way = _way(c, entry)
    h = c.gradient * dot[0] + c.decay * dot[1]
    m = c.keep1 * dot[2] + c.weights()[0] * h
    w = v = top = 0.0
    if c.second == Second.MAXIMUM:
        w = v = way.kept * c.keep2 * dot[3] + (1 - way.kept) * torch.sign(way.h) * h
    elif c.second != Second.NONE:
        w = v = c.keep2 * dot[3] + 2 * c.weights()[1] * way.h * h
    if c.second == Second.LARGEST:
        w = top = way.kept * dot[4] + (1 - way.kept) * v
    if c.second == Second.CENTERED:
        w = w - 2 * way.m * m
    u = (c.alpha * m + c.beta * h - way.quotient * way.slope * w) * way.inverse + c.shrink * dot[1]
    return u, m, v, top


def _way(c: Moments, entry: Entry) -> _Way:
    g, p, m, v, top = entry
    take1, take2 = c.weights()
    h = c.gradient * g + c.decay * p
    m = c.keep1 * m + take1 * h
    mean = c.alpha * m + c.beta * h
    if c.second == Second.NONE:
        return _Way(h, m, 0.0, 0.0, 1.0, mean, 0.0)
    kept: Any = 0.0
    if c.second == Second.MAXIMUM:
        before, now = c.keep2 * v, h.abs() + take2
        kept, v = _share(before, now), torch.maximum(before, now)
        least = smallest(v.dtype)
        root, slope = v.clamp_min(least), (v >= least).to(v.dtype)
    else:
        w = v = c.keep2 * v + take2 * h * h
        if c.second == Second.LARGEST:
            kept, w = _share(top, v), torch.maximum(top, v)
        if c.second == Second.CENTERED:
            w = v - m * m
        w, least = w + c.rho, torch.finfo(h.dtype).tiny
        root = w.clamp_min(least).sqrt()
        slope = torch.where(w >= least, 0.5, 0.0).to(root) / root
    inverse = 1 / (c.sigma * root + c.epsilon)
    return _Way(h, m, v, c.sigma * slope, inverse, mean * inverse, kept)


def _share(a: Tensor, b: Tensor) -> Tensor:
    """The derivative of ``maximum(a, b)`` in ``a``: a tie shares it."""
    return (a > b).to(b.dtype) + 0.5 * (a == b).to(b.dtype)
