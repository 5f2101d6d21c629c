"""The default choice of a linear solver, by the number of unknowns."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .._base import tree
from .._base.loop import choose, surely_none
from .._base.tree import Tree
from .dense import LU
from .gmres import GMRES
from .normal_cg import NormalCG
from .operator import Operator
from .solver import LinearSolution, LinearSolver


@dataclass(frozen=True)
class Auto(LinearSolver):
    """Any square system: LU for small ones, GMRES beyond, NormalCG for samples GMRES leaves undone.

    Args:
        rtol, atol, ridge: as for the solvers it chooses from.
        dense_limit: most unknowns per sample for LU. A matrix of 1000 takes 8 MB in float64 and is factored on one core
            in 30 to 60 ms; lower it for matrices near the identity, on which GMRES needs few products.
    """

    rtol: float | None = None
    atol: float = 0.0
    ridge: float = field(default=0.0, kw_only=True)
    dense_limit: int = field(default=1000, kw_only=True)

    def solve(self, operator: Operator, b: Tree, init: Tree | None = None) -> LinearSolution:
        rhs, unravel = tree.ravel(b, self.batch_ndim)
        if rhs.shape[-1] <= self.dense_limit:
            dense = LU(self.rtol, self.atol, ridge=self.ridge, batch_ndim=self.batch_ndim)
            return dense.solve(operator, b, init)
        operator = operator.shifted(self.ridge)
        first = GMRES(self.rtol, self.atol, batch_ndim=self.batch_ndim).solve(operator, b, init)
        undone = ~first.converged
        if surely_none(undone):
            return first
        # Samples that are done get a zero right-hand side, which costs no iteration.
        rest = unravel(choose(undone, rhs, torch.zeros_like(rhs)))
        second = NormalCG(self.rtol, self.atol, batch_ndim=self.batch_ndim).solve(operator, rest)
        x, x_second = (tree.ravel(solution.x, self.batch_ndim)[0] for solution in (first, second))
        return LinearSolution(
            unravel(choose(undone, x_second, x)),
            torch.where(undone, second.residual, first.residual),
            torch.where(undone, second.converged, first.converged),
            first.iterations + second.iterations,
        )
