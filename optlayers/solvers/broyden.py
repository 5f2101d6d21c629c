"""Broyden's method: roots by secants, without a Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .iterative import Flat, RootSolver, relative
from .memory import combine, empty, newest, put


class _State(NamedTuple):
    x: Tensor
    value: Tensor  # fn(x)
    move: Tensor  # the step that comes next
    moves: Tensor  # (*batch, memory, N): the steps since the last fresh start, in order
    gram: Tensor  # (*batch, memory, memory): their inner products
    count: Tensor  # (*batch) int64: how many
    error: Tensor


@dataclass(frozen=True)
class Broyden(RootSolver):
    r"""Steps ``x <- x - H fn(x)``, where ``H`` is corrected by rank one after each to fit what was seen on it.

    .. math:: H \leftarrow H + \frac{(s - H y)\, s^\top H}{s^\top H y}, \qquad s = x_+ - x,\quad
              y = F(x_+) - F(x),\quad H_0 = I

    ("good" Broyden). One evaluation a step, and locally superlinear, if ``fn`` is near the identity: ``x - f(x)`` with
    a contraction ``f``, for instance. The steps alone determine ``H``, so that only they are kept. A sample has
    converged if ``||fn(x)||`` and the next step are both at most ``rtol (1 + ||x||)``.

    Args:
        memory: number of steps kept; after so many it starts afresh from ``H = I``.

    References: Broyden, "A class of methods for solving nonlinear simultaneous equations" (1965); Kelley, "Iterative
        Methods for Linear and Nonlinear Equations" (1995), section 7.3.
    """

    memory: int = 16

    def check(self, x: Tensor) -> None:
        super().check(x)
        if self.memory < 1:
            raise ValueError(f"Broyden: memory is {self.memory}; expected at least 1.")

    def init(self, fn: Flat, x: Tensor) -> _State:
        value = fn(x)
        error = relative(value, x)
        gram = x.new_zeros(*x.shape[:-1], self.memory, self.memory)
        return _State(x, value, -value, empty(x, self.memory), gram, torch.zeros_like(error, dtype=torch.int64), error)

    def step(self, fn: Flat, state: _State) -> _State:
        x = state.x + state.move
        value = fn(x)
        slot = newest(state.count, self.memory)
        moves = put(state.moves, slot, state.move)
        # H = (I + s_k s_{k-1}' / |s_{k-1}|^2) ... (I + s_1 s_0' / |s_0|^2), oldest first when applied to `value`. With
        # the inner products at hand the weights of s_1 ... s_k in H value are a triangular system.
        with_value, with_move = (moves @ torch.stack([value, state.move], -1)).unbind(-1)
        gram = put(put(state.gram, slot, with_move).mT, slot, with_move)
        present = torch.arange(self.memory, device=x.device) <= state.count[..., None]
        length = torch.where(present, gram.diagonal(dim1=-2, dim2=-1), 1.0)
        length = torch.where(length > 0, length, 1.0)
        shifted = torch.cat([gram[..., 1:], torch.zeros_like(gram[..., :1])], -1)  # (j, i): s_j' s_{i+1}
        lower = torch.where(present[..., None], -shifted / length[..., None], 0.0).tril(-1)
        rhs = torch.where(present, with_value / length, 0.0)
        weights = torch.linalg.solve_triangular(lower, rhs[..., None], upper=False, unitriangular=True).squeeze(-1)
        last = torch.where(slot, weights, 0.0).sum(-1, keepdim=True)
        weights = torch.where(slot, 0.0, weights)
        direction = value + combine(moves, torch.cat([torch.zeros_like(last), weights[..., :-1]], -1))
        singular = (1 + last).abs() <= torch.finfo(x.dtype).eps
        move = -direction / torch.where(singular, 1.0, 1 + last)

        full = state.count + 1 == self.memory
        move = torch.where(full[..., None], -value, move)
        error = torch.maximum(relative(move, x), relative(value, x))
        return _State(x, value, move, moves, gram, torch.where(full, 0, state.count + 1), error)
