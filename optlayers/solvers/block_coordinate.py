"""Block coordinate descent: proximal gradient steps on one block of variables after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._base import tree
from .._base.tree import Tree
from .iterative import Flat, Minimiser, inner, relative
from .jacobian import value_and_gradient
from .line_search import backtrack
from .proximal_gradient import ProximalGradient, like_first_leaf
from .step_size import guess, rounding


class _State(NamedTuple):
    x: Tensor
    steps: Tensor  # (*batch, blocks): a step size for each
    error: Tensor


@dataclass(frozen=True)
class BlockCoordinateDescent(Minimiser):
    r"""Minimize a smooth objective plus a separable term, one block of variables at a time.

    .. math:: \min_x\ f(x) + \sum_j g_j(x_j), \qquad
              x_j \leftarrow \mathrm{prox}_{t_j g_j}(x_j - t_j \nabla_j f(x)) \quad\text{for all } j \text{ in turn}

    The blocks are the rows of the tensors of ``x``, along their first dimension after the batch: the entries of a
    vector, the rows of a matrix, for each tensor of a tree. Each has a step size of its own. A sample has converged if
    a sweep moves it by at most ``rtol (1 + ||x||)``. Its optimality residual is that of :class:`ProximalGradient`.

    Args:
        prox: ``prox(x, step)`` as for :class:`ProximalGradient`, acting on each block by itself.

    References: Tseng, "Convergence of a block coordinate descent method for nondifferentiable minimization" (2001);
        Beck and Tetruashvili, "On the convergence of block coordinate descent type methods" (2013).
    """

    prox: Callable[[Tree, Tensor | float], Tree]
    max_steps: int = field(default=1000, kw_only=True)

    def init(self, fn: Flat, x: Tensor) -> _State:
        gradient = value_and_gradient(fn, x)[1]
        step = guess(fn, x, gradient)
        move = self._move(fn, x, gradient, step)
        blocks = self._blocks(fn, x)
        return _State(x, step.expand(*step.shape[:-1], len(blocks)), relative(move, x))

    def step(self, fn: Flat, state: _State) -> _State:
        x, steps = state.x, list(state.steps.unsqueeze(-1).unbind(-2))
        for j, block in enumerate(self._blocks(fn, x)):
            x, steps[j] = self._update(fn, x, block, steps[j])
        return _State(x, torch.cat(steps, -1), relative(x - state.x, x))

    def _update(self, fn: Flat, x: Tensor, block: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = value_and_gradient(fn, x)

        def move(t: Tensor) -> Tensor:
            return torch.where(block, self._move(fn, x, gradient, t), 0.0)

        def accept(t: Tensor) -> Tensor:
            d = move(t)
            bound = value[..., None] + inner(gradient, d) + inner(d, d) / (2 * t)
            return fn(x + d)[..., None] <= bound + rounding(value)[..., None]

        d = move(step)
        tells = inner(d, d) / step > 100 * rounding(value)[..., None]
        step = backtrack(accept, step, torch.where(tells, 2 * step, step))
        return x + move(step), step

    def _move(self, fn: Flat, x: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
        target = fn.unravel(x - step * gradient)
        return fn.ravel(self.prox(target, like_first_leaf(step, target))) - x

    def _blocks(self, fn: Flat, x: Tensor) -> list[Tensor]:
        """For each block, which entries ``(N)`` of the raveled unknown are in it."""
        index, count = [], 0
        for leaf in tree.partition(fn.unravel(x))[0]:
            own = leaf.shape[self.batch_ndim :]
            rows = own[0] if own else 1
            index.append(count + torch.arange(rows, device=x.device).repeat_interleave(own.numel() // max(rows, 1)))
            count += rows
        where = torch.cat(index)
        return [where == j for j in range(count)]

    def optimality(self, objective: Callable[..., Tensor]) -> Callable[..., Tree]:
        return ProximalGradient(self.prox).optimality(objective)
