"""Roots: an equation and a start to a differentiable solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._base import tree
from .._base.status import Solution
from ..implicit import Adjoint, Implicit, Unroll
from ..implicit.residual import differentiate_root
from ..implicit.tracking import paused
from ..linear_solve import Auto
from ..solvers import Newton, RootSolver
from .outcome import Outcome


def root(
    fn: Callable[..., Any],
    init: Any,
    args: tuple = (),
    *,
    solver: RootSolver = Newton(),
    adjoint: Adjoint = Implicit(),
    throw: bool = True,
) -> Solution:
    r"""Solve an equation, and differentiate the solution.

    .. math:: F(x^\star, \theta) = 0

    Args:
        fn: ``fn(x, *args)`` with the structure and shapes of ``x``: one equation per unknown. Tensors it captures, such
            as a module's parameters, get their gradient as well.
        init: where to start, a pytree of floating tensors; gets no gradient.
        args: tuple of pytrees, differentiable.
        solver: :class:`~optlayers.Newton`, :class:`~optlayers.Broyden` or :class:`~optlayers.Bisection`; its
            ``batch_ndim`` says which leading dimensions index independent samples.
        adjoint: :class:`~optlayers.Implicit` (exact) or :class:`~optlayers.Unroll` (through the solver's iterations).
        throw: raise :class:`~optlayers.SolveError` if a sample did not converge; otherwise its ``x`` is NaN, with zero
            gradient.

    Returns:
        :class:`~optlayers.Solution`; ``residuals (*batch, 1)`` holds what the solver stops on.

    Raises:
        ValueError: ``fn`` returns other shapes than those of ``x``, or an option does not fit.
        SolveError: a sample did not converge, and ``throw`` is set.
    """
    if not isinstance(adjoint, Implicit) and adjoint != Unroll():
        raise ValueError(
            f"root: adjoint is {adjoint!r}; expected ol.Implicit(...) or ol.Unroll(). The others need a fixed-point "
            f"map."
        )
    if not isinstance(solver, RootSolver):
        raise ValueError(
            f"root: solver is {solver!r}; expected ol.Newton, ol.Broyden, ol.Bisection or another RootSolver."
        )
    init = tree.map(lambda leaf: leaf.detach(), init)
    if not isinstance(adjoint, Implicit):
        outcome = Outcome("root", *solver(lambda x: fn(x, *args), init), throw=throw)
        return outcome.solution(outcome.x)
    with paused():
        outcome = Outcome("root", *solver(lambda x: fn(x, *args), init), throw=throw)
    solve = adjoint.linear_solve or Auto(batch_ndim=solver.batch_ndim)
    x = outcome.where_solved(outcome.x, init)
    return outcome.solution(differentiate_root("root", outcome.guard(fn), x, args, {}, solve))
