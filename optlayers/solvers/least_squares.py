"""Nonlinear least squares: Gauss-Newton and Levenberg-Marquardt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._base import tree
from .._base.loop import choose
from .._base.tree import Tree
from .iterative import Flat, Minimiser, inner, relative
from .jacobian import gradient_of, jacobian, value_and_gradient
from .line_search import DECREASE, backtrack
from .step_size import rounding

LEAST_DAMPING = 4  # of rounding errors, relative to ||J||^2: below, damping does nothing


@dataclass(frozen=True)
class LeastSquares(Minimiser):
    """Minimizes ``||fn(x)||^2 / 2``; ``fn`` returns any tree of tensors ``(*batch, ...)``."""

    max_steps: int = field(default=200, kw_only=True)

    def flat(self, fn: Callable[[Tree], Tree], unravel: Callable[[Tensor], Tree]) -> Callable[[Tensor], Tensor]:
        return lambda x: tree.ravel(fn(unravel(x)), self.batch_ndim)[0]

    def optimality(self, objective: Callable[..., Tree]) -> Callable[..., Tree]:
        """The gradient ``J' r``; its Jacobian is the exact Hessian, second derivatives of the residuals included."""

        def half_squares(x: Tree, *args: Tree) -> Tensor:
            residuals, _ = tree.partition(objective(x, *args))
            return 0.5 * sum((r.square().sum() for r in residuals), torch.zeros(()))

        return gradient_of(half_squares)


class _State(NamedTuple):
    x: Tensor
    residual: Tensor  # (*batch, M)
    jacobian: Tensor  # (*batch, M, N)
    move: Tensor  # the step that comes next, in full
    damping: Tensor  # (*batch, 1), relative to ||J||^2
    growth: Tensor  # (*batch, 1): what the damping is multiplied with after a failure
    error: Tensor


@dataclass(frozen=True)
class GaussNewton(LeastSquares):
    """Minimize ``||r(x)||^2 / 2`` by steps to the minimum of ``||r(x) + J d||^2 / 2``, halved until they decrease it.

    What is given is the residual function ``r`` itself, whose value is any tree of tensors ``(*batch, ...)``. Fast
    where the residuals are small at the solution, or nearly linear. A sample has converged if the full step is at most
    ``rtol (1 + ||x||)``. Its optimality residual is ``J' r``, which is differentiated with the exact Hessian and not
    with ``J' J``.

    References: Nocedal and Wright, "Numerical Optimization" (2006), section 10.3.
    """

    def init(self, fn: Flat, x: Tensor) -> _State:
        residual, J = jacobian(fn, x)
        none = torch.zeros_like(x[..., :1])
        move = _damped_step(J, residual, none)
        return _State(x, residual, J, move, none, none, relative(move, x))

    def step(self, fn: Flat, state: _State) -> _State:
        before, gradient = _half_squares(state.residual), _pull(state.jacobian, state.residual)
        slope = inner(gradient, state.move)

        def accept(t: Tensor) -> Tensor:
            after, there = value_and_gradient(lambda x: _half_squares(fn(x)), state.x + t * state.move)
            return _decrease(before, after, gradient, there, t * state.move) >= -DECREASE * t * slope

        return self.init(fn, state.x + backtrack(accept, slope) * state.move)


@dataclass(frozen=True)
class LevenbergMarquardt(LeastSquares):
    """Minimize ``||r(x)||^2 / 2`` by damped Gauss-Newton steps, ``(J' J + mu I) d = -J' r``, from anywhere.

    What is given is the residual function ``r`` itself, whose value is any tree of tensors ``(*batch, ...)``. ``mu``
    falls as long as steps keep what they promise, so that it ends as :class:`GaussNewton`; singular ``J`` are no
    trouble. A sample has converged if the step, scaled up by ``1 + mu / ||J||^2``, is at most ``rtol (1 + ||x||)``. Its
    optimality residual is ``J' r``, which is differentiated with the exact Hessian and not with ``J' J``.

    Args:
        damping: ``mu`` at the start, relative to ``||J||^2``.

    References: Levenberg (1944); Marquardt (1963); Nielsen, "Damping parameter in Marquardt's method" (1999).
    """

    damping: float = 1e-3

    def check(self, x: Tensor) -> None:
        super().check(x)
        if not self.damping > 0:
            raise ValueError(f"LevenbergMarquardt: damping is {self.damping}; expected a positive number.")

    def init(self, fn: Flat, x: Tensor) -> _State:
        residual, J = jacobian(fn, x)
        one = torch.ones_like(x[..., :1])
        return self._state(x, residual, J, self.damping * one, 2 * one)

    def step(self, fn: Flat, state: _State) -> _State:
        x = state.x + state.move
        residual, J = jacobian(fn, x)
        mu = state.damping * _square_norm(state.jacobian)
        gradient = _pull(state.jacobian, state.residual)
        promised = 0.5 * (mu * inner(state.move, state.move) - inner(gradient, state.move))
        before, after = _half_squares(state.residual), _half_squares(residual)
        ratio = _decrease(before, after, gradient, _pull(J, residual), state.move)
        ratio = ratio / torch.where(promised > 0, promised, 1.0)
        good = ratio > DECREASE  # false for NaN, outside of the domain
        factor = torch.where(good, (1 - (2 * ratio - 1) ** 3).clamp(min=1 / 3), state.growth)
        least = LEAST_DAMPING * torch.finfo(x.dtype).eps
        damping = (state.damping * factor).clamp(least, 1 / least)
        growth = torch.where(good, 2.0, (2 * state.growth).clamp(max=1e6))
        taken = good.squeeze(-1)
        x, residual, J = choose(taken, (x, residual, J), (state.x, state.residual, state.jacobian))
        return self._state(x, residual, J, damping, growth)

    def _state(self, x: Tensor, residual: Tensor, J: Tensor, damping: Tensor, growth: Tensor) -> _State:
        move = _damped_step(J, residual, damping)
        error = relative(move, x) * (1 + damping.squeeze(-1))
        return _State(x, residual, J, move, damping, growth, error)


def _half_squares(residual: Tensor) -> Tensor:
    """(*batch): what is minimized."""
    return 0.5 * residual.square().sum(-1)


def _decrease(before: Tensor, after: Tensor, gradient: Tensor, there: Tensor, move: Tensor) -> Tensor:
    """(*batch, 1): how far the value falls along a move; from the gradients at its ends where rounding hides it."""
    hidden = (after - before).abs() <= rounding(before)
    return torch.where(hidden[..., None], -0.5 * inner(gradient + there, move), (before - after)[..., None])


def _pull(J: Tensor, residual: Tensor) -> Tensor:
    return (residual[..., None, :] @ J).squeeze(-2)


def _square_norm(J: Tensor) -> Tensor:
    """(*batch, 1): squared Frobenius norm."""
    return J.square().sum((-2, -1))[..., None]


def _damped_step(J: Tensor, residual: Tensor, damping: Tensor) -> Tensor:
    """The minimizer of ``||r + J d||^2 + mu ||d||^2`` by QR of the stacked matrix, whose condition is not squared."""
    size = J.shape[-1]
    least = LEAST_DAMPING * torch.finfo(J.dtype).eps
    square = _square_norm(J)
    mu = torch.where(square > 0, damping.clamp(min=least**2) * square, 1.0)
    identity = torch.eye(size, dtype=J.dtype, device=J.device)
    stacked = torch.cat([J, mu.sqrt()[..., None] * identity], -2)
    q, upper = torch.linalg.qr(stacked)
    rhs = -_pull(q[..., : J.shape[-2], :], residual)
    return torch.linalg.solve_triangular(upper, rhs[..., None], upper=True).squeeze(-1)
