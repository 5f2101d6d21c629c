"""What an iterative solver found, and what becomes of the samples that it did not solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._base import tree
from .._base.loop import can_read
from .._base.status import Solution, Status, solve_error


class Outcome:
    """The result of a solver, with failed samples kept out of every gradient.

    Raises:
        SolveError: a sample is not SOLVED, `throw` is set, and the statuses can be read.
    """

    def __init__(self, function: str, x: Any, status: Tensor, iterations: Tensor, residuals: Tensor, *, throw: bool):
        self.x, self.status, self.iterations, self.residuals = x, status, iterations, residuals
        self.solved = status == int(Status.SOLVED)
        readable = can_read(status)
        self.all_solved = readable and bool(self.solved.all())
        if throw and readable and not self.all_solved:
            raise solve_error(function, status, residuals)

    def where_solved(self, value: Any, other: Any) -> Any:
        """`value`, but `other` for the samples that failed, so that nothing of theirs reaches a gradient."""
        if self.all_solved:
            return value

        def pick(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(self.solved.reshape(self.solved.shape + (1,) * (a.ndim - self.solved.ndim)), a, b)

        return tree.map(pick, value, other)

    def guard(self, residual: Callable[..., Any]) -> Callable[..., Any]:
        """A residual with that of failed samples replaced by ``x``, whose Jacobian is the identity."""
        if self.all_solved:
            return residual
        return lambda x, *args: self.where_solved(residual(x, *args), x)

    def solution(self, x: Any) -> Solution:
        """The solution, NaN where there is none."""
        nan = tree.map(lambda leaf: torch.full_like(leaf, torch.nan), x) if not self.all_solved else x
        return Solution(self.where_solved(x, nan), self.status, self.iterations, self.residuals)
