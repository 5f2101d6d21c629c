"""Mirror descent: gradient steps in a geometry that fits the set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._base import tree
from .._base.tree import Tree
from .iterative import Flat, Minimiser, inner, relative
from .jacobian import gradient_of, value_and_gradient
from .line_search import backtrack
from .step_size import guess, rounding

GROWTH = 2.0  # of the step, while the test of decrease means something


def safe_log(x: Tree) -> Tree:
    """The gradient of the entropy; finite, with zero slope, where an entry has vanished."""
    return tree.map(lambda leaf: leaf.clamp(min=torch.finfo(leaf.dtype).tiny).log(), x)


class _State(NamedTuple):
    x: Tensor
    target: Tensor  # where the next step leads
    step: Tensor  # (*batch, 1)
    error: Tensor


@dataclass(frozen=True)
class MirrorDescent(Minimiser):
    r"""Minimize over a set by steps in the geometry of a strictly convex :math:`\phi`.

    .. math:: x \leftarrow P\bigl(\nabla\phi(x) - t \nabla f(x)\bigr), \qquad
              P(y) = \arg\min_{x \in C}\ \phi(x) - y^\top x

    For the simplex and the entropy ``P`` is the softmax, and the method is exponentiated gradient. A sample has
    converged if the step is at most ``rtol (1 + ||x||)``. Its optimality residual is ``x - P(mapping(x) - grad f(x))``.

    Args:
        projection: ``P``, on trees like ``x``; ``lambda y: y.softmax(-1)`` for rows in simplices.
        mapping: the gradient of ``phi``; that of the entropy by default.
        step_size: ``t``. None: found by halving and doubling.

    References: Beck and Teboulle, "Mirror descent and nonlinear projected subgradient methods" (2003).
    """

    projection: Callable[[Tree], Tree]
    mapping: Callable[[Tree], Tree] = safe_log
    step_size: float | None = field(default=None, kw_only=True)
    max_steps: int = field(default=10000, kw_only=True)

    def init(self, fn: Flat, x: Tensor) -> _State:
        if self.step_size is not None:
            return self._from(fn, x, torch.full_like(x[..., :1], self.step_size))
        return self._from(fn, x, guess(fn, x, value_and_gradient(fn, x)[1]))

    def step(self, fn: Flat, state: _State) -> _State:
        return self._from(fn, state.target, state.step)

    def _from(self, fn: Flat, x: Tensor, step: Tensor) -> _State:
        value, gradient = value_and_gradient(fn, x)
        dual = fn.ravel(self.mapping(fn.unravel(x)))

        def target(t: Tensor) -> Tensor:
            return fn.ravel(self.projection(fn.unravel(dual - t * gradient)))

        if self.step_size is None:

            def distance(t: Tensor) -> tuple[Tensor, Tensor]:
                """The point, and its Bregman distance: half the symmetrized one, equal to second order."""
                point = target(t)
                return point, 0.5 * inner(fn.ravel(self.mapping(fn.unravel(point))) - dual, point - x)

            def accept(t: Tensor) -> Tensor:
                point, apart = distance(t)
                bound = value[..., None] + inner(gradient, point - x) + apart / t
                return fn(point)[..., None] <= bound + rounding(value)[..., None]

            tells = distance(step)[1] / step > 100 * rounding(value)[..., None]
            step = backtrack(accept, step, torch.where(tells, GROWTH * step, step))
        point = target(step)
        return _State(x, point, step, relative(point - x, x))

    def optimality(self, objective: Callable[..., Tensor]) -> Callable[..., Tree]:
        gradient = gradient_of(objective)

        def residual(x: Tree, *args: Tree) -> Tree:
            dual = tree.map(lambda value, slope: value - slope, self.mapping(x), gradient(x, *args))
            return tree.map(lambda value, image: value - image, x, self.projection(dual))

        return residual
