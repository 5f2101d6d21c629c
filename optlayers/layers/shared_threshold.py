"""The gradient rule of points with a shared threshold: entmax and the multi-label projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._base.loop import surely_none
from ..implicit.rule import Rule, attach, pull_back


class SharedThreshold(Rule):
    r"""Entries ``p_i = phi(x_i - t)`` in [0, 1], with ``phi`` increasing and the threshold ``t`` set by their sum.

    Where an entry is inside, in ``S``, ``psi(p_i) - x_i + t = 0`` with ``psi`` the inverse of ``phi``; elsewhere it is
    0 or 1, and stays so. Eliminating ``t`` and adding the sum leaves one equation per unknown,

    .. math:: (I - \tfrac1n \mathbf 1 \mathbf 1^\top)(\psi(p_S) - x_S)
              + \mathbf 1 (\mathbf 1^\top p - \text{total}) = 0,

    whose Jacobian in ``p`` inverts in closed form. With ``s = phi'`` it gives ``dp/dx = diag(s) - s s' / sum(s)``.

    Args:
        inverse: ``psi(p, *parameters)``.
        slope: ``s`` as a function of ``p`` and the parameters, 0 where ``p`` is not inside.
        total: the sum of the entries.
        parameters: how many tensors there are besides ``x``.
    """

    def __init__(
        self, inverse: Callable[..., Tensor], slope: Callable[..., Tensor], total: int = 1, parameters: int = 0
    ):
        self.inverse, self.slope, self.total = inverse, slope, total
        self.differentiable = [True] * (1 + parameters)

    def residual(self, x, args):
        (p,), (point, *parameters) = x, args
        inside = self.slope(p, *parameters) > 0
        gap = self.inverse(torch.where(inside, p, 0.5), *parameters) - torch.where(inside, point, 0.0)
        gap = torch.where(inside, gap, 0.0)
        mean = gap.sum(-1, keepdim=True) / _count(inside)
        excess = torch.where(inside, p, p.round()).sum(-1, keepdim=True) - self.total
        return [torch.where(inside, gap - mean + excess, p - p.round())]

    def solve_linear(self, x, args, rhs, transpose):
        (p,), (_, *parameters), (v,) = x, args, rhs
        s = self.slope(p, *parameters)
        inside = s > 0
        if transpose:
            u = _project(s, v) + _ratio(s * v, s) / _count(inside)
        else:
            mean = torch.where(inside, v, 0.0).sum(-1, keepdim=True) / _count(inside)
            u = _project(s, v) + s * mean / _positive(s.sum(-1, keepdim=True))
        return [torch.where(inside, u, v)]

    def vjp(self, x, args, cotangent, needed):
        (p,), (_, *parameters), (g,) = x, args, cotangent
        if g is None:
            return [None] * len(needed)
        grad = _project(self.slope(p, *parameters), g)
        grads: list[Tensor | None] = [grad if needed[0] else None, *[None] * len(parameters)]
        if any(needed[1:]):
            inside = p > 0

            def inverse(*values: Tensor) -> list[Tensor]:
                return [self.inverse(torch.where(inside, p, 0.5), *values)]

            grads[1:] = pull_back(inverse, parameters, [-grad])
        return grads


def at_threshold(rule: SharedThreshold, p: Tensor, args: Sequence[Tensor]) -> Tensor:
    """The point `p` that was found, with its derivatives; a sample of NaN has none, and a gradient of zero."""
    lost = p[..., :1].isnan()
    if surely_none(lost):
        return attach(rule, [p], args, fresh=True)[0]
    return torch.where(lost, torch.nan, attach(rule, [torch.where(lost, 0.0, p)], args, fresh=True)[0])


def _project(s: Tensor, v: Tensor) -> Tensor:
    """``(diag(s) - s s' / sum(s)) v``."""
    scaled = s * v
    return scaled - s * (scaled.sum(-1, keepdim=True) / _positive(s.sum(-1, keepdim=True)))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator.sum(-1, keepdim=True) / _positive(denominator.sum(-1, keepdim=True))


def _count(mask: Tensor) -> Tensor:
    return mask.sum(-1, keepdim=True).clamp(min=1)


def _positive(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1.0)
