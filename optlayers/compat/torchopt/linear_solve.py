"""TorchOpt's linear solvers: factories of :mod:`optlayers.linear_solve`, with its options spelled out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..._base.tree import Tree
from ...linear_solve import CG, LU, LinearSolver, Neumann, NormalCG, Operator

__all__ = ["solve_cg", "solve_inv", "solve_normal_cg"]

Map = Callable[[Tree], Tree]
Solve = Callable[..., Tree]


def solve_cg(
    *,
    ridge: float | None = None,
    init: Tree | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Map | None = None,
) -> Solve:
    """:class:`~optlayers.linear_solve.CG`, called as ``solver(matvec, b)``.

    Args:
        ridge: solve ``(A + ridge I) x = b``.
        init: first guess.
        rtol, atol: tolerances of the residual.
        maxiter: most iterations; 10 for each unknown without.
        M: preconditioner, a linear map near the inverse of ``A``.
    """
    return _started(CG(rtol, atol, maxiter, M, ridge=ridge or 0.0), init)


def solve_normal_cg(
    *,
    ridge: float | None = None,
    init: Tree | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Map | None = None,
) -> Solve:
    """:class:`~optlayers.linear_solve.NormalCG`, called as ``solver(matvec, b)``; arguments as in :func:`solve_cg`."""
    return _started(NormalCG(rtol, atol, maxiter, M, ridge=ridge or 0.0), init)


def solve_inv(
    *, ridge: float | None = None, ns: bool = False, maxiter: int | None = None, alpha: float | None = None
) -> Solve:
    """:class:`~optlayers.linear_solve.LU` of the whole matrix, called as ``solver(matvec, b)``.

    Args:
        ridge: solve ``(A + ridge I) x = b``.
        ns: :class:`~optlayers.linear_solve.Neumann` instead, with `maxiter` terms after the first (10 without) and
            the factor `alpha` (1 without).

    Raises:
        TypeError: `maxiter` or `alpha` without `ns`.
    """
    if not ns:
        if maxiter is not None or alpha is not None:
            raise TypeError(
                "solve_inv: maxiter and alpha are options of the Neumann series; expected them with ns=True."
            )
        return LU(ridge=ridge or 0.0)
    series = neumann(maxiter, alpha)
    if not ridge:
        return series

    def solve(matvec: Map, b: Tree, **options: Any) -> Tree:
        return series(Operator(matvec).shifted(ridge).matvec, b)

    return solve


def neumann(maxiter: int | None, alpha: float | None) -> Neumann:
    """The series with TorchOpt's defaults."""
    return Neumann(10 if maxiter is None else maxiter, 1.0 if alpha is None else alpha)


def _started(solver: LinearSolver, init: Tree | None) -> Solve:
    return solver if init is None else partial(solver, init=init)
