"""Projection onto a set or an intersection of sets: a batch of points to differentiable nearest ones, with a status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .._base.checks import check_tensors
from .._base.status import Solution, Status
from ..implicit import Adjoint, Implicit
from ..linear_solve import NormalCG
from ..solvers import FixedPointSolver, Picard
from .fixed_point import fixed_point
from .outcome import Outcome


def project(
    x: Tensor,
    onto: Callable[[Tensor], Tensor] | Sequence[Callable[[Tensor], Tensor]],
    *,
    sample_dims: int = 1,
    solver: FixedPointSolver = Picard(max_steps=10_000),
    adjoint: Adjoint = Implicit(),
    throw: bool = True,
) -> Solution:
    r"""Project onto a convex set, or onto the intersection of several.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad y \in C_1 \cap \dots \cap C_k

    The sets are given by their projections, those of :mod:`optlayers.projection` for instance. An intersection takes
    Dykstra's method, a fixed-point iteration on one correction for each set; it is differentiated at the fixed point,
    in memory that does not grow with the steps. Where several corrections belong to one projection, as when a
    constraint occurs in two sets, the derivative is not affected.

    Where a single projection has the intersection for its set (:func:`~optlayers.projection.polyhedron`,
    :func:`~optlayers.projection.box_section`, :func:`~optlayers.projection.transport`), it is faster and exact.

    Args:
        x: ``(*batch, n)`` float32 or float64; gets a gradient, as do tensors that the projections capture.
        onto: a function of a tensor shaped like ``x`` that projects every sample, or a sequence of them.
        sample_dims: so many trailing dimensions make up a sample, 2 for matrices.
        solver: the fixed-point iteration of an intersection. Its ``batch_ndim`` is taken from ``x``.
        adjoint: as in :func:`~optlayers.fixed_point`.
        throw: raise :class:`~optlayers.SolveError` if a sample was not projected; otherwise it is NaN, with zero
            gradient.

    Returns:
        :class:`~optlayers.Solution`. A single set has no iterations, and is PRIMAL_INFEASIBLE where its projection is
        NaN; sets that do not meet end at MAX_STEPS.

    Raises:
        TypeError: ``x`` is not a tensor.
        ValueError: ``x`` has fewer dimensions than a sample, or ``onto`` is empty.
        SolveError: a sample was not projected, and ``throw`` is set.

    References: Boyle and Dykstra, "A method for finding projections onto the intersection of convex sets in Hilbert
        spaces" (1986).
    """
    check_tensors("project", {"x": x})
    batch_ndim = x.dim() - sample_dims
    if batch_ndim < 0:
        raise ValueError(f"project: x has shape {tuple(x.shape)}; expected at least {sample_dims} dimensions.")
    if callable(onto):
        return _onto_one(x, onto, batch_ndim, throw)
    sets = tuple(onto)
    if not sets:
        raise ValueError("project: onto is empty; expected at least one projection.")

    def round_of_corrections(corrections: list[Tensor], x: Tensor) -> list[Tensor]:
        point, moved = x - sum(corrections), []
        for nearest, correction in zip(sets, corrections, strict=True):
            start = point + correction
            point = nearest(start)
            moved.append(start - point)
        return moved

    if adjoint == Implicit():  # corrections need not be unique, and any solution of the singular system will do
        adjoint = Implicit(NormalCG(batch_ndim=batch_ndim))
    found = fixed_point(
        round_of_corrections,
        [torch.zeros_like(x) for _ in sets],
        (x,),
        solver=replace(solver, batch_ndim=batch_ndim),
        adjoint=adjoint,
        throw=throw,
    )
    return found._replace(x=x - sum(found.x))


def _onto_one(x: Tensor, nearest: Callable[[Tensor], Tensor], batch_ndim: int, throw: bool) -> Solution:
    y = nearest(x)
    there = torch.isfinite(y.detach().unsqueeze(-1)).flatten(batch_ndim).all(-1)
    status = torch.where(there, int(Status.SOLVED), int(Status.PRIMAL_INFEASIBLE))
    none = torch.zeros_like(status)
    residuals = torch.where(there, 0.0, torch.inf).to(y.dtype).unsqueeze(-1)
    return Outcome("project", y, status, none, residuals, throw=throw).solution(y)
