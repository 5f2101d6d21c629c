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
        steps: keep the graph of the last so many iterations only (truncated, approximate); None keeps all. A solver
            that stops where it has converged takes them there.

    Raises:
        ValueError: a number of steps below zero.
    """

    steps: int | None = None

    def __post_init__(self):
        if self.steps is not None and self.steps < 0:
            raise ValueError(f"Unroll: steps is {self.steps}; expected None, or at least 0.")


@dataclass(frozen=True)
class OneStep:
    """Differentiate through `steps` applications of the fixed-point map at the solution ("phantom gradient").

    An approximation whose relative error is the contraction factor to the power `steps`.

    References: Bolte, Pauwels, Vaiter, "One-step differentiation of iterative algorithms" (2023).
    """

    steps: int = 1


@dataclass(frozen=True)
class Smoothed:
    r"""Differentiate a program whose solution jumps, such as a linear one: approximate, exact as temperature goes to 0.

    The solution stays the exact one. Its derivative is that of the point of the central path, the solution of

    .. math:: \min_x\ f(x) - \text{temperature} \sum_i \log s_i(x) ,

    with :math:`s_i` the slacks of the inequalities and bounds, whose multipliers satisfy ``z_i s_i = temperature``.

    A few Newton steps find it from the solution. ``torch.compile`` breaks the graph there.

    Args:
        temperature: in units of the objective. Where the exact solution stays put while the costs change by
            less than this, the smoothed derivative already leans towards the neighbouring vertices.

    Raises:
        ValueError: a temperature that is not positive.

    References: Wilder, Dilkina, Tambe, "Melding the data-decisions pipeline" (2019); Mandi, Guns, "Interior point
    solving for LP-based prediction + optimisation" (2020).
    """

    temperature: float

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"Smoothed: temperature is {self.temperature!r}; expected a positive number.")


Adjoint = Implicit | Unroll | OneStep | Smoothed
