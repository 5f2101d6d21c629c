"""Fixed points: a map and a start to a differentiable equilibrium."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from .._base import tree
from .._base.loop import can_read
from .._base.status import Solution, Status, solve_error
from ..implicit import Adjoint, Implicit, OneStep, Unroll
from ..implicit.residual import differentiate_root
from ..implicit.tracking import paused
from ..linear_solve import Auto
from ..solvers import Picard


def fixed_point(
    fn: Callable[..., Any],
    init: Any,
    args: tuple = (),
    *,
    solver: Picard = Picard(),
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
        solver: the algorithm; its ``batch_ndim`` says which leading dimensions index independent samples.
        adjoint: :class:`~optlayers.Implicit` (exact), :class:`~optlayers.Unroll` (through the solver's iterations) or
            :class:`~optlayers.OneStep` (through a few steps at the solution).
        throw: raise :class:`~optlayers.SolveError` if a sample did not converge; otherwise its ``x`` is NaN, with zero
            gradient.

    Returns:
        :class:`~optlayers.Solution`; ``residuals (*batch, 1)`` holds ``||fn(x) - x|| / (1 + ||x||)``.

    Raises:
        SolveError: a sample did not converge, and ``throw`` is set.

    References: Bai et al., "Deep equilibrium models" (2019).
    """
    init = tree.map(lambda leaf: leaf.detach(), init)

    tracked = adjoint == Unroll()
    with nullcontext() if tracked else paused():
        x, status, iterations, residuals = solver(lambda x: fn(x, *args), init)
    solved = status == int(Status.SOLVED)
    all_solved = can_read(status) and bool(solved.all())
    if throw and not all_solved and can_read(status):
        raise solve_error("fixed_point", status, residuals)

    def where_solved(value: Any, other: Any) -> Any:
        """`value`, but `other` for the samples that failed, so that nothing of theirs reaches a gradient."""
        if all_solved:
            return value
        return tree.map(
            lambda a, b: torch.where(solved.reshape(solved.shape + (1,) * (a.ndim - solved.ndim)), a, b), value, other
        )

    if not tracked:
        x = where_solved(x, init)
    if isinstance(adjoint, Implicit):

        def residual(x: Any, *args: Any) -> Any:
            return where_solved(tree.map(lambda value, image: value - image, x, fn(x, *args)), x)

        solve = Auto() if adjoint.linear_solve is None else adjoint.linear_solve
        x = differentiate_root("fixed_point", residual, x, args, {}, solve)
    elif isinstance(adjoint, OneStep | Unroll):
        for _ in range(adjoint.steps or 0):
            x = fn(x, *args)
    else:
        raise ValueError(f"fixed_point: adjoint is {adjoint!r}; expected ol.Implicit, ol.Unroll or ol.OneStep.")
    nan = tree.map(lambda leaf: torch.full_like(leaf, torch.nan), x)
    return Solution(where_solved(x, nan), status, iterations, residuals)
