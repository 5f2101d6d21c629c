"""TorchOpt's linear algebra: systems with a matrix, a pytree of matrices or a function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..._base import tree
from ..._base.tree import Tree
from ...linear_solve import CG
from .linear_solve import neumann

__all__ = ["cg", "ns", "ns_inv"]

Map = Callable[[Tree], Tree]


def cg(
    A: Tree | Map,
    b: Tree,
    x0: Tree | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Tree | Map | None = None,
) -> Tree:
    """Solve ``A x = b`` by :class:`~optlayers.linear_solve.CG`.

    Args:
        A: ``(n, n)``, or a pytree like `b` of such matrices, or a linear function.
        b: ``(n)``, or a pytree.
        x0: first guess.
        rtol, atol, maxiter, M: as in :func:`~optlayers.compat.torchopt.linear_solve.solve_cg`.
    """
    return CG(rtol, atol, maxiter, None if M is None else _map(M))(_map(A), b, init=x0)


def ns(A: Tree | Map, b: Tree, maxiter: int | None = None, *, alpha: float | None = None) -> Tree:
    """The Neumann series for ``A x = b``, :class:`~optlayers.linear_solve.Neumann`; `A` and `b` as in :func:`cg`."""
    return neumann(maxiter, alpha)(_map(A), b)


def ns_inv(A: Tree, maxiter: int | None = None, *, alpha: float | None = None) -> Tree:
    """The first `maxiter` terms of the Neumann series for the inverse of a square matrix, or of each in a pytree."""
    series = neumann((10 if maxiter is None else maxiter) - 1, alpha)

    def invert(matrix: Tensor) -> Tensor:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"ns_inv: A has shape {tuple(matrix.shape)}; expected a square matrix.")
        return series(lambda x: matrix @ x, torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device))

    return tree.map(invert, A)


def _map(A: Tree | Map) -> Map:
    return A if callable(A) else lambda x: tree.map(torch.matmul, A, x)
