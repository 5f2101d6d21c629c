"""Gradient descent: with a step size of its own, or with any optimizer of `optim`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base import tree
from .._base.tree import Tree
from ..optim import GradientTransformation, apply_updates
from .iterative import Flat, relative
from .jacobian import gradient_of, value_and_gradient
from .proximal_gradient import ProximalDescent
from .step_size import guess


class _State(NamedTuple):
    x: Tensor
    inner: Any  # the transformation's own, its tensors (*batch, ...)
    scale: Tensor  # (*batch, 1) by which gradients are measured: the reciprocal of the curvature at the start
    error: Tensor


@dataclass(frozen=True)
class GradientDescent(ProximalDescent):
    """Minimize a smooth objective by steps ``x <- x - t grad f(x)``, or by those of an optimizer.

    A sample has converged if the step is at most ``rtol (1 + ||x||)``. Its optimality residual is the gradient.

    With a transformation the step of steepest descent, scaled by the curvature at the start, must be as small as well:
    a learning rate that fades is no convergence. Many optimizers need thousands of steps for that (Adam's second moment
    forgets by 0.999 a step), so raise `rtol`, or say how many with `steps`.

    Args:
        transformation: such as ``optim.adam(1e-2)``; each sample has a state of its own. Hyper-parameters that are
            tensors get their gradient with :class:`~optlayers.Unroll`; a solution that is differentiated implicitly
            does not depend on them. None: the method with the options below.
        step_size: as in :class:`ProximalGradient`.
        acceleration: True for Nesterov's method.

    Raises:
        ValueError: a transformation together with `step_size` or `acceleration`.
    """

    transformation: GradientTransformation | None = None
    acceleration: bool = field(default=False, kw_only=True)

    def __post_init__(self):
        if self.transformation is not None and (self.acceleration or self.step_size is not None):
            raise ValueError(
                "GradientDescent: a transformation is given together with step_size or acceleration; expected one way "
                "to make a step, such as GradientDescent(optim.sgd(0.1, momentum=0.9))."
            )

    def proximal(self, x: Tree, step: Tensor | float) -> Tree:
        return x

    def optimality(self, objective: Callable[..., Tensor]) -> Callable[..., Tree]:
        return gradient_of(objective)

    def init(self, fn: Flat, x: Tensor) -> Any:
        transformation = self.transformation
        if transformation is None:
            return super().init(fn, x)
        inner = self._each(lambda x: transformation.init(fn.unravel(x)), x)
        if self.steps is not None:  # which nothing ends early, so that no curvature is needed
            return _State(x, inner, torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1].sum(-1)))
        gradient = value_and_gradient(fn, x)[1]
        scale = guess(fn, x, gradient)
        return _State(x, inner, scale, relative(scale * gradient, x))

    def step(self, fn: Flat, state: Any) -> Any:
        transformation = self.transformation
        if transformation is None:
            return super().step(fn, state)

        def move(x: Tensor, gradient: Tensor, inner: Any) -> tuple[Tensor, Any]:
            at = fn.unravel(x)
            updates, inner = transformation.update(fn.unravel(gradient), inner, at)
            return tree.ravel(apply_updates(at, updates))[0], inner

        gradient = value_and_gradient(fn, state.x)[1]
        x, inner = self._each(move, state.x, gradient, state.inner)
        error = torch.maximum(relative(state.scale * gradient, x), relative(x - state.x, x))
        return _State(x, inner, state.scale, error)

    def _each(self, fn: Callable[..., Any], x: Tensor, *rest: Any) -> Any:
        """`fn` of each sample: transformations may count their steps, and take norms over all they are given."""
        batch = x.shape[: self.batch_ndim]
        if batch.numel() == 0:  # which vmap refuses: the shapes are those of one sample
            one = tree.map(lambda leaf: leaf.new_zeros(leaf.shape[self.batch_ndim :]), (x, *rest))
            return tree.map(lambda leaf: leaf.expand(*batch, *leaf.shape), fn(*one))
        for _ in batch:
            fn = torch.vmap(fn)
        return fn(x, *rest)
