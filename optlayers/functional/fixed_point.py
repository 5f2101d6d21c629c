"""Fixed points: a map and a start to a differentiable equilibrium."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from .._base import tree
from .._base.status import Solution
from ..implicit import Adjoint, Implicit, OneStep, Unroll
from ..implicit.residual import differentiate_root
from ..implicit.tracking import paused
from ..linear_solve import Auto
from ..solvers import FixedPointSolver, Picard, RootSolver
from .outcome import Outcome

# The matrix of a fixed-point problem is that of a contraction subtracted from the identity, on which GMRES needs some
# 20 products. Building it takes one for each unknown.
DENSE_LIMIT = 32


def fixed_point(
    fn: Callable[..., Any],
    init: Any,
    args: tuple = (),
    *,
    solver: FixedPointSolver | RootSolver = Picard(),
    adjoint: Adjoint = Implicit(),
    throw: bool = True,
) -> Solution:
    r"""Find a fixed point of a map, and differentiate it.

    .. math:: x^\star = f(x^\star, \theta)

    Args:
        fn: ``fn(x, *args)`` with the structure and shapes of ``x``. Tensors it captures, such as a module's
            parameters, get their gradient as well.
        init: where to start, a pytree of floating tensors; gets no gradient.
        args: tuple of pytrees, differentiable.
        solver: the algorithm, one for fixed points or one for roots, which is given ``x - fn(x)``; its ``batch_ndim``
            says which leading dimensions index independent samples.
        adjoint: :class:`~optlayers.Implicit` (exact), :class:`~optlayers.Unroll` (through the solver's iterations) or
            :class:`~optlayers.OneStep` (through a few steps at the solution).
        throw: raise :class:`~optlayers.SolveError` if a sample did not converge; otherwise its ``x`` is NaN, with zero
            gradient.

    Returns:
        :class:`~optlayers.Solution`; ``residuals (*batch, 1)`` holds what the solver stops on, in most of them
        ``||fn(x) - x|| / (1 + ||x||)``.

    Raises:
        ValueError: ``fn`` returns other shapes than those of ``x``, or an option does not fit.
        SolveError: a sample did not converge, and ``throw`` is set.

    References: Bai et al., "Deep equilibrium models" (2019).
    """
    init = tree.map(lambda leaf: leaf.detach(), init)

    def residual(x: Any, *args: Any) -> Any:
        return tree.map(lambda value, image: value - image, x, fn(x, *args))

    problem = residual if isinstance(solver, RootSolver) else fn
    tracked = adjoint == Unroll()
    with nullcontext() if tracked else paused():
        found = solver(lambda x: problem(x, *args), init)
    outcome = Outcome("fixed_point", *found, throw=throw)

    x = outcome.x if tracked else outcome.where_solved(outcome.x, init)
    if isinstance(adjoint, Implicit):
        solve = adjoint.linear_solve or Auto(batch_ndim=solver.batch_ndim, dense_limit=DENSE_LIMIT)
        x = differentiate_root("fixed_point", outcome.guard(residual), x, args, {}, solve)
    elif isinstance(adjoint, OneStep | Unroll):
        for _ in range(adjoint.steps or 0):
            x = fn(x, *args)
    else:
        raise ValueError(f"fixed_point: adjoint is {adjoint!r}; expected ol.Implicit, ol.Unroll or ol.OneStep.")
    return outcome.solution(x)
