"""Line searches, for each sample of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import choose, iterate
from .iterative import Flat, inner
from .jacobian import value_and_gradient
from .step_size import rounding

HALVINGS = 30
DECREASE = 1e-4  # part of the decrease promised by the slope at the start
CURVATURE = 0.9  # part of the slope at the start that may be left at the end


class _Trial(NamedTuple):
    t: Tensor  # (*batch, 1)
    accepted: Tensor  # (*batch) bool


def backtrack(accept: Callable[[Tensor], Tensor], like: Tensor, start: Tensor | float = 1.0) -> Tensor:
    """The first of ``start, start / 2, start / 4 ...`` that is accepted, or the last of them; ``(*batch, 1)``.

    Args:
        accept: steps ``(*batch, 1)`` to bool ``(*batch, 1)``; a comparison with NaN, outside of a domain, is no.
        like: a tensor ``(*batch, 1)``.
    """
    t = torch.zeros_like(like) + start
    end = iterate(
        lambda trial: _Trial(0.5 * trial.t, accept(0.5 * trial.t).squeeze(-1)),
        _Trial(t, accept(t).squeeze(-1)),
        lambda trial: trial.accepted,
        HALVINGS,
    )
    return end.state.t


class _Bracket(NamedTuple):
    t: Tensor  # (*batch, 1): the step to be tried
    low: Tensor  # the longest one that decreased the objective enough
    high: Tensor  # the shortest one that did not; 0 while there is none
    value: Tensor  # (*batch), at low
    gradient: Tensor  # (*batch, N), at low
    accepted: Tensor  # (*batch) bool: low is it


def wolfe(fn: Flat, x: Tensor, value: Tensor, gradient: Tensor, move: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step ``t (*batch, 1)`` along a descent direction that meets the weak Wolfe conditions, by bisection.

    Returns ``t``, and value and gradient at ``x + t move``. Where none is found, the longest step of those tried that
    decreased the objective; 0 if there was none, or if the objective falls without end. Near a
    minimum, where values differ by rounding only, slopes decide.

    References: Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods" (2013); Hager and Zhang, "A new
        conjugate gradient method with guaranteed descent" (2005), for the rounding.
    """
    slope = inner(gradient, move)

    def step(at: _Bracket) -> _Bracket:
        new, new_gradient = value_and_gradient(fn, x + at.t * move)
        new_slope = inner(new_gradient, move)
        bound = value[..., None] + DECREASE * at.t * slope
        level = (new - value <= rounding(value))[..., None] & (new_slope <= (2 * DECREASE - 1) * slope)
        enough = (new[..., None] <= bound) | level
        flat = new_slope >= CURVATURE * slope
        low, high = torch.where(enough, at.t, at.low), torch.where(enough, at.high, at.t)
        accepted = (enough & flat).squeeze(-1)
        return _Bracket(
            torch.where(high > 0, 0.5 * (low + high), 2 * low),
            low,
            high,
            torch.where(enough.squeeze(-1), new, at.value),
            torch.where(enough, new_gradient, at.gradient),
            accepted,
        )

    one = torch.ones_like(slope)
    none = torch.zeros_like(value, dtype=torch.bool)
    start = _Bracket(one, 0 * one, 0 * one, value, gradient, none)
    end = iterate(step, start, lambda at: at.accepted, HALVINGS).state
    unbounded = ~end.accepted & (end.high == 0).squeeze(-1)  # it went down all the way
    return choose(unbounded, (0 * one, value, gradient), (end.low, end.value, end.gradient))
