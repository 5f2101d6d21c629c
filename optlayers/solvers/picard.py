"""Picard iteration: apply the map until it no longer moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._base import tree
from .._base.loop import Iteration, iterate
from .._base.status import Status
from .._base.tree import Tree


@dataclass(frozen=True)
class Picard:
    """``x <- x + damping (fn(x) - x)``; converges for a contraction, by its factor a step.

    Args:
        rtol: a sample has converged if ``||fn(x) - x|| <= rtol (1 + ||x||)``. None: 1e-10 in float64, 1e-5 in float32.
        max_steps: limit on the steps.
        damping: fraction of the step taken, in (0, 1].
        batch_ndim: so many leading dimensions of every tensor of ``x`` index independent samples.

    References: Banach (1922).
    """

    rtol: float | None = None
    max_steps: int = 1000
    damping: float = 1.0
    batch_ndim: int = 0

    def __call__(self, fn: Callable[[Tree], Tree], init: Tree) -> tuple[Tree, Tensor, Tensor, Tensor]:
        """Return ``x``, status, iterations and residuals ``(*batch, 1)``; differentiable by the tape."""
        if not 0 < self.damping <= 1:
            raise ValueError(f"Picard: damping is {self.damping}; expected a number in (0, 1].")

        def step(state: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            x, image = state
            x = tree.map(lambda a, b: a + self.damping * (b - a), x, image)
            return x, fn(x)

        end: Iteration = iterate(step, (init, fn(init)), lambda state: self._gap(*state) <= 1, self.max_steps)
        status = torch.where(end.done, int(Status.SOLVED), int(Status.MAX_STEPS))
        status = torch.where(end.failed, int(Status.NUMERICAL_ERROR), status)
        x, image = end.state
        rtol = self._rtol(x)
        return x, status, end.steps, (self._gap(x, image) * rtol).detach()[..., None]

    def _rtol(self, x: Tree) -> float:
        if self.rtol is not None:
            return self.rtol
        return 1e-10 if all(leaf.dtype == torch.float64 for leaf in tree.leaves(x)) else 1e-5

    def _gap(self, x: Tree, image: Tree) -> Tensor:
        """How far the map moves ``x``, relative to what is allowed."""
        move = tree.norm(tree.map(lambda a, b: b - a, x, image), self.batch_ndim)
        return move / (self._rtol(x) * (1 + tree.norm(x, self.batch_ndim)))
