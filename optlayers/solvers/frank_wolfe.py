"""Frank-Wolfe: minimization over a set by linear minimizations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.tree import Tree
from .iterative import Flat, Minimiser, inner
from .jacobian import value_and_gradient
from .line_search import backtrack
from .proximal_gradient import ProjectedGradient
from .step_size import guess, rounding


class _State(NamedTuple):
    x: Tensor
    value: Tensor
    move: Tensor  # to the vertex that the gradient points away from
    gap: Tensor  # (*batch, 1): bounds how far the value is from the minimum
    scale: Tensor  # (*batch, 1): reciprocal of the curvature
    error: Tensor


@dataclass(frozen=True)
class FrankWolfe(Minimiser):
    r"""Minimize a convex objective over a set by steps towards the point that minimizes its linearization.

    .. math:: x \leftarrow x + \gamma\,(v - x), \qquad v = \arg\min_{v \in C}\ \nabla f(x)^\top v

    The start must lie in the set. A sample has converged if the duality gap ``grad' (x - v)``, which bounds the
    distance of the value from the minimum, is at most ``rtol (1 + |f(x)|)``. The gap falls with the reciprocal of the
    steps, so that without `rtol` it is 1e-6 in float64 and 1e-3 in float32 here, and ``x`` is less accurate than from
    other solvers.

    Args:
        oracle: ``oracle(gradient)``, a point of the set where ``gradient' v`` is least, with the structure of ``x``.
        projection: onto the set, for the derivative alone, whose residual is ``x - projection(x - grad f(x))``.
            Without it ``optimality`` has to be given by the user.

    References: Jaggi, "Revisiting Frank-Wolfe" (2013); Pedregosa et al., "Linearly convergent Frank-Wolfe with
        backtracking line-search" (2020).
    """

    oracle: Callable[[Tree], Tree]
    projection: Callable[[Tree], Tree] | None = None
    max_steps: int = field(default=10000, kw_only=True)

    def tolerance(self, dtype: torch.dtype) -> float:
        return self.rtol if self.rtol is not None else (1e-6 if dtype == torch.float64 else 1e-3)

    def init(self, fn: Flat, x: Tensor) -> _State:
        return self._at(fn, x, guess(fn, x, value_and_gradient(fn, x)[1]))

    def step(self, fn: Flat, state: _State) -> _State:
        square = inner(state.move, state.move)
        square = torch.where(square > 0, square, 1.0)

        def length(scale: Tensor) -> Tensor:
            return (scale * state.gap / square).clamp(max=1)

        def accept(scale: Tensor) -> Tensor:
            t = length(scale)
            bound = state.value[..., None] - t * state.gap + t.square() * square / (2 * scale)
            return fn(state.x + t * state.move)[..., None] <= bound + rounding(state.value)[..., None]

        tells = state.gap > 100 * rounding(state.value)[..., None]
        scale = backtrack(accept, state.scale, torch.where(tells, 1.5 * state.scale, state.scale))
        return self._at(fn, state.x + length(scale) * state.move, scale)

    def _at(self, fn: Flat, x: Tensor, scale: Tensor) -> _State:
        value, gradient = value_and_gradient(fn, x)
        move = fn.ravel(self.oracle(fn.unravel(gradient))) - x
        gap = -inner(gradient, move)
        return _State(x, value, move, gap, scale, gap.squeeze(-1) / (1 + value.abs()))

    def optimality(self, objective: Callable[..., Tensor]) -> Callable[..., Tree]:
        if self.projection is None:
            raise ValueError(
                "FrankWolfe: optimality needs a projection onto the set, since a linear oracle has no derivative; "
                "give FrankWolfe(oracle, projection), or another residual to differentiate."
            )
        return ProjectedGradient(self.projection).optimality(objective)
