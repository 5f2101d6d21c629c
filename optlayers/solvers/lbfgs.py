"""L-BFGS: smooth unconstrained minimization with little memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import choose
from .._base.tree import Tree
from .iterative import Flat, Minimiser, relative
from .jacobian import gradient_of, value_and_gradient
from .line_search import wolfe
from .quasi_newton import Pairs, apply_inverse, no_pairs, remember
from .step_size import guess


class _State(NamedTuple):
    x: Tensor
    value: Tensor
    gradient: Tensor
    move: Tensor  # the step that comes next, in full
    pairs: Pairs
    fresh: Tensor  # (*batch) bool: nothing is remembered
    error: Tensor


@dataclass(frozen=True)
class LBFGS(Minimiser):
    """Minimize a smooth objective by quasi-Newton steps and a line search for the weak Wolfe conditions.

    A sample has converged if the full step is at most ``rtol (1 + ||x||)``, whatever the scale of the objective. Where
    no decrease is found along a step it forgets all pairs, and where there is none along the gradient either it ends
    with NUMERICAL_ERROR. Its optimality residual is the gradient.

    Args:
        memory: number of pairs of steps and changes of the gradient.

    References: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization" (1989).
    """

    memory: int = 10

    def check(self, x: Tensor) -> None:
        super().check(x)
        if self.memory < 1:
            raise ValueError(f"LBFGS: memory is {self.memory}; expected at least 1.")

    def init(self, fn: Flat, x: Tensor) -> _State:
        value, gradient = value_and_gradient(fn, x)
        pairs = no_pairs(x, self.memory, guess(fn, x, gradient))
        return self._state(x, value, gradient, pairs, torch.ones_like(value, dtype=torch.bool))

    def step(self, fn: Flat, state: _State) -> _State:
        t, value, gradient = wolfe(fn, state.x, state.value, state.gradient, state.move)
        move = t * state.move
        pairs = remember(state.pairs, move, gradient - state.gradient)
        lost = t.squeeze(-1) == 0
        pairs = choose(lost, no_pairs(state.x, self.memory, state.pairs.scale), pairs)
        after = self._state(state.x + move, value, gradient, pairs, lost)
        return after._replace(error=torch.where(lost & state.fresh, torch.nan, after.error))

    def _state(self, x: Tensor, value: Tensor, gradient: Tensor, pairs: Pairs, fresh: Tensor) -> _State:
        move = -apply_inverse(pairs, gradient)
        return _State(x, value, gradient, move, pairs, fresh, relative(move, x))

    def optimality(self, objective: Callable[..., Tensor]) -> Callable[..., Tree]:
        return gradient_of(objective)
