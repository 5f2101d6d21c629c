"""What every linear solver is: a frozen set of options with `solve`, callable as ``solver(matvec, b)``."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import can_read
from .._base.tree import Tree
from .operator import LinearMap, Operator


class ConvergenceWarning(UserWarning):
    """A linear solve did not reach its tolerance; what it returned is not the solution."""


class LinearSolution(NamedTuple):
    """What :meth:`LinearSolver.solve` returns; all but ``x`` have the shape ``(*batch)`` and carry no derivative."""

    x: Tree
    residual: Tensor  # ||b - A x|| / ||b||, measured on the x returned
    converged: Tensor  # bool
    iterations: Tensor  # int64


@dataclass(frozen=True)
class LinearSolver(ABC):
    """A way to solve ``A x = b``, given by its options; solving keeps nothing on the solver.

    Args:
        batch_ndim: so many leading dimensions, in every leaf of ``x`` and ``b``, index independent systems, each with
            step sizes, stopping and outcome of its own. The rest of all leaves together is one vector of N unknowns.
    """

    batch_ndim: int = field(default=0, kw_only=True)

    @abstractmethod
    def solve(self, operator: Operator, b: Tree, init: Tree | None = None) -> LinearSolution:
        """Solve ``operator.matvec(x) = b``, from ``init`` where the method is iterative, and report on each sample.

        Args:
            b: tree of float32 or float64 tensors ``(*batch, ...)``; dtypes and structure come back in ``x``.
            init: first guess, shaped like ``x``; zero without. It gets no gradient.

        Raises:
            ValueError: trees that do not fit the batch, each other, or the operator.
        """

    def __call__(
        self, matvec: LinearMap, b: Tree, *, init: Tree | None = None, rmatvec: LinearMap | None = None
    ) -> Tree:
        """The solution of ``matvec(x) = b``; warns with :class:`ConvergenceWarning` of samples that have none.

        Any function ``solve(matvec, b)`` can stand in for a solver so called.
        """
        solution = self.solve(Operator(matvec, rmatvec), b, init)
        self._warn(solution)
        return solution.x

    @property
    def T(self) -> LinearSolver:
        """The same solver for the transposed system; differs where a preconditioner has to be transposed along."""
        return self

    def _warn(self, solution: LinearSolution) -> None:
        failed = ~solution.converged
        if not can_read(failed) or not failed.any():
            return
        residual = torch.where(failed, solution.residual, 0.0)
        worst = float("nan") if residual.isnan().any() else float(residual.max())
        samples = [tuple(int(i) for i in index) for index in failed.nonzero()[:8]]
        which = "" if failed.ndim == 0 else f" {int(failed.sum())} of {failed.numel()} samples, at {samples},"
        warnings.warn(
            f"linear_solve.{type(self).__name__}:{which} did not converge; worst relative residual {worst:.1e}. "
            "The matrix may be singular or unfit for the method, or maxiter too small.",
            ConvergenceWarning,
            stacklevel=3,
        )
