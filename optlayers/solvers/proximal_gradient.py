"""Projected-gradient and proximal-gradient descent, and what gradient descent shares with them."""

from __future__ import annotations

from abc import abstractmethod
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


class _State(NamedTuple):
    x: Tensor  # the proximal gradient step from `base`
    base: Tensor  # where the gradient was taken: beyond x, by momentum
    previous: Tensor  # the x before
    step: Tensor  # (*batch, 1)
    momentum: Tensor  # (*batch, 1) Nesterov's sequence
    error: Tensor


@dataclass(frozen=True)
class ProximalDescent(Minimiser):
    """Steps ``x <- prox(y - t grad(y), t)`` from points ``y`` that momentum carries beyond ``x``."""

    max_steps: int = field(default=10000, kw_only=True)
    step_size: float | None = field(default=None, kw_only=True)
    acceleration: bool = field(default=True, kw_only=True)

    @abstractmethod
    def proximal(self, x: Tree, step: Tensor | float) -> Tree:
        """The minimizer ``u`` of ``step g(u) + ||u - x||^2 / 2`` for the term ``g`` that is not smooth."""

    def check(self, x: Tensor) -> None:
        super().check(x)
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(
                f"{type(self).__name__}: step_size is {self.step_size}; expected a positive number or None."
            )

    def init(self, fn: Flat, x: Tensor) -> _State:
        one = torch.ones_like(x[..., :1])
        if self.step_size is not None:
            step = self.step_size * one
        else:
            step = guess(fn, x, value_and_gradient(fn, x)[1])
        return self._from(fn, x, x, step, one)

    def step(self, fn: Flat, state: _State) -> _State:
        if not self.acceleration:
            return self._from(fn, state.x, state.x, state.step, state.momentum)
        moved = state.x - state.previous
        # Momentum that points uphill is dropped.
        uphill = inner(state.base - state.x, moved) > 0
        momentum = torch.where(uphill, 1.0, state.momentum)
        following = 0.5 * (1 + torch.sqrt(1 + 4 * momentum.square()))
        base = state.x + (momentum - 1) / following * moved
        return self._from(fn, base, state.x, state.step, following)

    def _from(self, fn: Flat, base: Tensor, previous: Tensor, step: Tensor, momentum: Tensor) -> _State:
        value, gradient = value_and_gradient(fn, base)
        if self.step_size is None:

            def accept(t: Tensor) -> Tensor:
                move = self._move(fn, base, gradient, t)
                bound = value[..., None] + inner(gradient, move) + inner(move, move) / (2 * t)
                return fn(base + move)[..., None] <= bound + rounding(value)[..., None]

            step = backtrack(accept, step, step)
        move = self._move(fn, base, gradient, step)
        return _State(base + move, base, previous, step, momentum, relative(move, base))

    def _move(self, fn: Flat, base: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
        target = fn.unravel(base - step * gradient)
        return fn.ravel(self.proximal(target, like_first_leaf(step, target))) - base

    def optimality(self, objective: Callable[..., Tensor]) -> Callable[..., Tree]:
        gradient = gradient_of(objective)

        def residual(x: Tree, *args: Tree) -> Tree:
            target = tree.map(lambda value, slope: value - slope, x, gradient(x, *args))
            return tree.map(lambda value, image: value - image, x, self.proximal(target, 1.0))

        return residual


def like_first_leaf(step: Tensor, target: Tree) -> Tensor:
    """A step ``(*batch, 1)`` with as many dimensions as the first tensor of the tree, to broadcast over it."""
    first = tree.partition(target)[0][0]
    return step.reshape(step.shape[:-1] + (1,) * (first.ndim - step.ndim + 1))


@dataclass(frozen=True)
class ProximalGradient(ProximalDescent):
    r"""Minimize a smooth objective plus a term that is given by its proximal operator.

    .. math:: \min_x\ f(x) + g(x), \qquad x \leftarrow \mathrm{prox}_{t g}(y - t \nabla f(y))

    with Nesterov's acceleration, restarted whenever the momentum points uphill. A sample has converged if
    ``||x - y|| <= rtol (1 + ||y||)``. Its optimality residual is ``x - prox(x - grad f(x), 1)``.

    Args:
        prox: ``prox(x, step)``, with the structure of ``x``: the minimizer ``u`` of ``step g(u) + ||u - x||^2 / 2``. In
            a batch ``step`` has the dimensions of the first tensor of ``x``.
        step_size: ``t``. None: found by halving, from the curvature along the first gradient.
        acceleration: False for the plain method, which decreases the objective at every step.

    References: Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm" (2009); O'Donoghue and Candes,
        "Adaptive restart for accelerated gradient schemes" (2015).
    """

    prox: Callable[[Tree, Tensor | float], Tree]

    def proximal(self, x: Tree, step: Tensor | float) -> Tree:
        return self.prox(x, step)


@dataclass(frozen=True)
class ProjectedGradient(ProximalDescent):
    """Minimize a smooth objective over a set given by its projection: :class:`ProximalGradient` with it as prox.

    Its optimality residual is ``x - projection(x - grad f(x))``.

    Args:
        projection: ``projection(x)``, the nearest point of the set. Tensors it captures get their gradient.
        step_size, acceleration: as in :class:`ProximalGradient`.
    """

    projection: Callable[[Tree], Tree]

    def proximal(self, x: Tree, step: Tensor | float) -> Tree:
        return self.projection(x)
