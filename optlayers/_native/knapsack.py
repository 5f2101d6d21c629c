"""The active bounds of a continuous quadratic knapsack, a box with one linear equation, by variable fixing."""

from __future__ import annotations

import torch
from torch import Tensor

from .search import search


def _empty(x: Tensor, lower: Tensor, upper: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[0])


@search(_empty)
def knapsack_bounds(x: Tensor, lower: Tensor, upper: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Which bounds the projection of ``x`` onto ``{lower <= y <= upper, a'y = b}`` meets, and the multiplier.

    All are ``(B, n)`` but ``b (B,)``; bounds may be infinite. The projection is ``clip(x - t a, lower, upper)`` for a
    multiplier ``t (B,)``, also returned. In the first result, -1 marks the lower bound, 1 the upper, 0 what is free.

    With all free ``t`` has a closed form. Whether its violations of lower or of upper bounds weigh more tells on which
    side the true ``t`` is, and so which of them are met for good. Those are fixed, and the rest is solved again.

    References: Kiwiel, "Variable fixing algorithms for the continuous quadratic knapsack problem" (2008).
    """
    dtype = x.dtype
    x, lower, upper, a, b = x.double(), lower.double(), upper.double(), a.double(), b.double()
    # Signs are flipped so that a >= 0: more t then moves all entries down.
    flip = a < 0
    x, a = torch.where(flip, -x, x), a.abs()
    lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    # What does not enter the equation is clipped on its own and takes no part.
    free = a > 0
    side = torch.where(~free & (x > upper), 1.0, torch.where(~free & (x < lower), -1.0, 0.0)).to(x)
    left = b[:, None]
    for _ in range(x.shape[-1] + 1):
        t = _multiplier(x, a, free, left)
        y = x - t * a
        below, above = free & (y < lower), free & (y > upper)
        lack = torch.where(below, a * (lower - y), 0.0).sum(-1, keepdim=True)
        excess = torch.where(above, a * (y - upper), 0.0).sum(-1, keepdim=True)
        fix_below, fix_above = below & (lack >= excess), above & (excess >= lack)
        fixed = fix_below | fix_above
        if not fixed.any():
            break
        side = torch.where(fix_below, -1.0, torch.where(fix_above, 1.0, side))
        bound = torch.where(fix_below, lower, upper)
        left = left - torch.where(fixed, a * bound, 0.0).sum(-1, keepdim=True)
        free = free & ~fixed
    return torch.where(flip, -side, side).to(dtype), _multiplier(x, a, free, left).squeeze(-1).to(dtype)


def _multiplier(x: Tensor, a: Tensor, free: Tensor, left: Tensor) -> Tensor:
    weight = torch.where(free, a * a, 0.0).sum(-1, keepdim=True)
    return (torch.where(free, a * x, 0.0).sum(-1, keepdim=True) - left) / torch.where(weight > 0, weight, 1.0)
