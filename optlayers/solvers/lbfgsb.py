"""L-BFGS within bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._base import tree
from .._base.loop import choose
from .._base.tree import Tree
from .iterative import Flat, Minimiser, inner, relative
from .jacobian import gradient_of, value_and_gradient
from .line_search import DECREASE, backtrack
from .quasi_newton import Pairs, apply_inverse, no_pairs, remember
from .step_size import guess, rounding


class _State(NamedTuple):
    x: Tensor
    value: Tensor
    gradient: Tensor
    move: Tensor  # the step that comes next, in full and before it is cut at the bounds
    pairs: Pairs
    fresh: Tensor  # (*batch) bool: nothing is remembered
    error: Tensor


@dataclass(frozen=True)
class LBFGSB(Minimiser):
    """Minimize a smooth objective over a box by projected quasi-Newton steps.

    A variable at a bound that the gradient pushes against stays there; the others take the L-BFGS step of their own
    space, cut off at the bounds. A sample has converged if the full step moves it by at most ``rtol (1 + ||x||)``. Its
    optimality residual is ``x - clamp(x - grad f(x), lower, upper)``.

    Args:
        lower, upper: numbers, or tensors that broadcast to every tensor of ``x``; they may be infinite. The derivative
            with respect to a tensor is that of the solution.
        memory: as in :class:`LBFGS`.

    References: Bertsekas, "Projected Newton methods for optimization problems with simple constraints" (1982).
    """

    lower: Tensor | float
    upper: Tensor | float
    memory: int = 10

    def check(self, x: Tensor) -> None:
        super().check(x)
        if self.memory < 1:
            raise ValueError(f"LBFGSB: memory is {self.memory}; expected at least 1.")
        if isinstance(self.lower, float | int) and isinstance(self.upper, float | int) and self.lower > self.upper:
            raise ValueError(f"LBFGSB: lower is {self.lower}, above upper, {self.upper}.")

    def init(self, fn: Flat, x: Tensor) -> _State:
        x = self._clamp(fn, x)
        value, gradient = value_and_gradient(fn, x)
        pairs = no_pairs(x, self.memory, guess(fn, x, gradient))
        return self._state(fn, x, value, gradient, pairs, torch.ones_like(value, dtype=torch.bool))

    def step(self, fn: Flat, state: _State) -> _State:
        def point(t: Tensor) -> Tensor:
            return self._clamp(fn, state.x + t * state.move)

        def accept(t: Tensor) -> Tensor:
            x = point(t)
            bound = state.value[..., None] + DECREASE * inner(state.gradient, x - state.x)
            return fn(x)[..., None] <= bound + rounding(state.value)[..., None]

        x = point(backtrack(accept, state.error[..., None]))
        value, gradient = value_and_gradient(fn, x)
        move = x - state.x
        # A step that rounding alone let pass, or none: afresh from the gradient, and then no further.
        lost = (value > state.value + rounding(state.value)) | ~torch.isfinite(value) | (move == 0).all(-1)
        x, value, gradient = choose(lost, (state.x, state.value, state.gradient), (x, value, gradient))
        pairs = remember(state.pairs, move, gradient - state.gradient)
        pairs = choose(lost, no_pairs(state.x, self.memory, state.pairs.scale), pairs)
        after = self._state(fn, x, value, gradient, pairs, lost)
        return after._replace(error=torch.where(lost & state.fresh, torch.nan, after.error))

    def _state(self, fn: Flat, x: Tensor, value: Tensor, gradient: Tensor, pairs: Pairs, fresh: Tensor) -> _State:
        held = self._clamp(fn, x - pairs.scale * gradient) == x
        free = ~held
        move = -apply_inverse(pairs, gradient, free)
        # In the reduced space H is positive definite only as far as rounding goes.
        uphill = inner(move, torch.where(free, gradient, 0.0)) > 0
        move = torch.where(uphill, torch.where(free, -pairs.scale * gradient, 0.0), move)
        reach = self._clamp(fn, x + move) - x
        return _State(x, value, gradient, move, pairs, fresh, relative(reach, x))

    def _clamp(self, fn: Flat, x: Tensor) -> Tensor:
        return fn.ravel(self.clamp(fn.unravel(x)))

    def clamp(self, x: Tree) -> Tree:
        """The nearest point of the box."""

        def one(leaf: Tensor) -> Tensor:
            low, high = (torch.as_tensor(end, dtype=leaf.dtype, device=leaf.device) for end in (self.lower, self.upper))
            return torch.minimum(torch.maximum(leaf, low), high)

        return tree.map(one, x)

    def optimality(self, objective: Callable[..., Tensor]) -> Callable[..., Tree]:
        gradient = gradient_of(objective)

        def residual(x: Tree, *args: Tree) -> Tree:
            target = tree.map(lambda value, slope: value - slope, x, gradient(x, *args))
            return tree.map(lambda value, image: value - image, x, self.clamp(target))

        return residual
