"""Newton's method for roots, with the Jacobian of each sample and a line search on the length of the residual."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .iterative import Flat, RootSolver, inner, relative
from .jacobian import jacobian
from .line_search import DECREASE, backtrack


class _State(NamedTuple):
    x: Tensor
    value: Tensor  # fn(x)
    move: Tensor  # the step that comes next, in full
    error: Tensor


@dataclass(frozen=True)
class Newton(RootSolver):
    """Steps ``x <- x - t J(x)^{-1} fn(x)``, the first of ``t = 1, 1/2, 1/4 ...`` that shortens ``fn(x)``.

    ``J`` is dense, N products by vmap a step; converges quadratically near a regular root. A sample has converged if
    the full step is at most ``rtol (1 + ||x||)``, whatever the scale of ``fn``. Where ``J`` is singular it ends with
    NUMERICAL_ERROR.

    References: Dennis and Schnabel, "Numerical Methods for Unconstrained Optimization and Nonlinear Equations" (1996),
        chapter 6.
    """

    max_steps: int = field(default=100, kw_only=True)

    def init(self, fn: Flat, x: Tensor) -> _State:
        value, J = jacobian(fn, x)
        move = torch.linalg.solve_ex(J, -value)[0]
        move = torch.where((value == 0).all(-1, keepdim=True), 0.0, move)  # a root, where J may well be singular
        return _State(x, value, move, relative(move, x))

    def step(self, fn: Flat, state: _State) -> _State:
        before = inner(state.value, state.value)

        def shorter(t: Tensor) -> Tensor:
            value = fn(state.x + t * state.move)
            return inner(value, value) <= (1 - 2 * DECREASE * t) * before

        return self.init(fn, state.x + backtrack(shorter, before) * state.move)
