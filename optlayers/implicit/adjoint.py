"""How a solution is differentiated: the values of every ``adjoint=`` argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Implicit:
    """Differentiate the optimality conditions at the solution: exact, any order, memory independent of the steps.

    Args:
        linear_solve: solver for the linear system, one of :mod:`optlayers.linear_solve` or any function
            ``solve(matvec, b) -> x``. None: the problem's own factorization where it has one, else
            :class:`~optlayers.linear_solve.Auto`. ``Identity()`` and ``Neumann(k)`` are approximations.
    """

    linear_solve: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Unroll:
    """Differentiate through the iterations of the solver.

    Args:
        steps: keep the graph of the last so many iterations only (truncated, approximate); None keeps all.
    """

    steps: int | None = None


@dataclass(frozen=True)
class OneStep:
    """Differentiate through `steps` applications of the fixed-point map at the solution ("phantom gradient").

    An approximation whose relative error is the contraction factor to the power `steps`.

    References: Bolte, Pauwels, Vaiter, "One-step differentiation of iterative algorithms" (2023).
    """

    steps: int = 1


Adjoint = Implicit | Unroll | OneStep
