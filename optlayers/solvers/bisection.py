"""Bisection, for functions of one variable or for many of them at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._base import tree
from .._base.loop import choose
from .._base.status import Status
from .._base.tree import Tree
from .iterative import Flat, RootSolver


class _State(NamedTuple):
    x: Tensor  # the middle
    low: Tensor
    high: Tensor
    sign_low: Tensor  # of fn(low): -1, 0 or 1
    error: Tensor


@dataclass(frozen=True)
class Bisection(RootSolver):
    """Halve the bracket ``[lower, upper]`` around a sign change, for every entry of ``x`` on its own.

    ``fn`` acts entry by entry. The start is not used. A sample has converged when the largest half width of its
    brackets, relative to ``1 + |x|``, is at most `rtol`. A sample whose bracket shows no sign change has the status
    INVALID_INPUT.

    Args:
        lower, upper: numbers, or tensors that broadcast to the raveled ``x (*batch, N)``.
    """

    lower: Tensor | float
    upper: Tensor | float
    max_steps: int = field(default=200, kw_only=True)

    def __call__(self, fn, init: Tree) -> tuple[Tree, Tensor, Tensor, Tensor]:
        x, status, steps, residuals = super().__call__(fn, init)
        start, unravel = tree.ravel(init, self.batch_ndim)
        flat = self.flat(fn, unravel)
        low, high = self._bracket(start)
        signs = flat(low).sign() * flat(high).sign()
        bracketed = ((signs <= 0) & (low <= high)).all(-1)  # false for NaN
        status = torch.where(bracketed, status, int(Status.INVALID_INPUT))
        return x, status, steps, choose(bracketed, residuals, torch.full_like(residuals, torch.inf))

    def init(self, fn: Flat, x: Tensor) -> _State:
        low, high = self._bracket(x)
        # An end that is a root already is where the bracket shrinks to.
        at_high = fn(high) == 0
        low = torch.where(at_high, high, low)
        return self._state(low, high, fn(low).sign())

    def step(self, fn: Flat, state: _State) -> _State:
        sign = fn(state.x).sign()
        left = state.sign_low * sign <= 0  # the sign changes at or before the middle
        low = torch.where(left & (sign != 0), state.low, state.x)
        high = torch.where(left, state.x, state.high)
        return self._state(low, high, torch.where(left, state.sign_low, sign))

    def _state(self, low: Tensor, high: Tensor, sign_low: Tensor) -> _State:
        middle = torch.where(sign_low == 0, low, 0.5 * (low + high))
        high = torch.where(sign_low == 0, low, high)
        error = (0.5 * (high - low).abs() / (1 + middle.abs())).flatten(-1).amax(-1)
        return _State(middle, low, high, sign_low, error)

    def _bracket(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (self.lower, self.upper))
        return low.expand(x.shape), high.expand(x.shape)
