"""Approximate inverses chosen by name: the truncated Neumann series, and the identity (Jacobian-free)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._base import tree
from .._base.tree import Tree
from .correction import length
from .operator import LinearMap, Operator
from .solver import LinearSolution, LinearSolver


@dataclass(frozen=True)
class Neumann(LinearSolver):
    r"""The series :math:`x = \alpha \sum_{k=0}^{\text{terms}} (I - \alpha A)^k b`, which tends to ``A^-1 b``.

    It does so if ``I - alpha A`` contracts. For a fixed point, ``A = I - J``, with ``alpha = 1`` it gives the gradient
    of ``terms + 1`` unrolled steps. An approximation by choice: it reports its residual, counts as converged if it is
    finite, and so never warns. There is nothing to start from: ``init`` is not used.

    References: Lorraine et al., "Optimizing millions of hyperparameters by implicit differentiation" (2020).
    """

    terms: int
    alpha: float = 1.0

    def __call__(
        self, matvec: LinearMap, b: Tree, *, init: Tree | None = None, rmatvec: LinearMap | None = None
    ) -> Tree:
        """The truncated series, without the product with ``A`` that measuring its residual would cost."""
        rhs, unravel = tree.ravel(b, self.batch_ndim)
        x = rhs
        for _ in range(self.terms):  # (LIN-6) by Horner: x <- b + (I - alpha A) x
            x = rhs + x - self.alpha * tree.ravel(matvec(unravel(x)), self.batch_ndim)[0]
        return unravel(self.alpha * x)

    def solve(self, operator: Operator, b: Tree, init: Tree | None = None) -> LinearSolution:
        x = self(operator.matvec, b)
        rhs = tree.ravel(b, self.batch_ndim)[0]
        size = length(rhs)
        gap = length(rhs - tree.ravel(operator.matvec(x), self.batch_ndim)[0])
        residual = torch.where(size == 0, 0.0, gap / torch.where(size == 0, 1.0, size))
        finite = torch.isfinite(tree.ravel(x, self.batch_ndim)[0]).all(-1)
        return LinearSolution(x, residual, finite, torch.full_like(finite, self.terms, dtype=torch.int64))


@dataclass(frozen=True)
class Identity(LinearSolver):
    """``x = b``, as if ``A`` were the identity: the Jacobian-free gradient of a fixed point, and ``Neumann(0)``.

    References: Fung et al., "JFB: Jacobian-free backpropagation for implicit networks" (2022).
    """

    def __call__(
        self, matvec: LinearMap, b: Tree, *, init: Tree | None = None, rmatvec: LinearMap | None = None
    ) -> Tree:
        return b

    def solve(self, operator: Operator, b: Tree, init: Tree | None = None) -> LinearSolution:
        return Neumann(0, batch_ndim=self.batch_ndim).solve(operator, b)
