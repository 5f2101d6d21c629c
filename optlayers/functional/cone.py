"""Cone programs: a batch of them to a differentiable solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import can_read
from .._base.pattern import Matrix
from .._base.status import Status, solve_error
from ..implicit import Adjoint, Implicit
from ..implicit.opaque import opaque
from ..solvers import Clarabel
from ..solvers.conic import Cones, ConeSolver
from .cone_data import Structure, absent_rows, cone_data, without_rows
from .cone_point import Point, find_point
from .cone_rule import attach_point
from .diffcp_rule import Diffcp, attach_diffcp


class ConeSolution(NamedTuple):
    """Solutions of a batch of cone programs; ``x``, ``s`` and ``z`` are differentiable.

    Attributes:
        x: ``(*, n)`` the minimizer.
        s: ``(*, m)`` slacks ``b - Ax``, in the cones.
        z: ``(*, m)`` multipliers, in the dual cones: free for the rows of the zero cone.
        status: ``(*)`` int64, one :class:`~optlayers.Status` per sample.
        iterations: ``(*)`` int64, those of the solver.
        residuals: ``(*, 2)`` relative residuals, primal and dual; complementarity is exact.
    """

    x: Tensor
    s: Tensor
    z: Tensor
    status: Tensor
    iterations: Tensor
    residuals: Tensor


def solve_cone(
    P: Matrix | None,
    q: Tensor,
    A: Matrix,
    b: Tensor,
    cones: Cones,
    *,
    solver: ConeSolver = Clarabel(),
    adjoint: Adjoint | Diffcp = Implicit(),
    throw: bool = True,
) -> ConeSolution:
    r"""Solve a batch of convex cone programs.

    .. math:: \min_x\ \tfrac12 x^\top P x + q^\top x \quad\text{s.t.}\quad Ax + s = b,\; s \in \mathcal K

    .. math:: Px + q + A^\top z = 0, \quad z \in \mathcal K^*, \quad s^\top z = 0

    Differentiable in every tensor argument, in both modes, at any order, in ``x``, ``s`` and ``z``. An argument without
    batch dimensions is shared by the batch, and its gradient is the sum over it. The solver's point is refined to
    rounding accuracy before it is differentiated. All is computed in float64; solvers run on the CPU, which tensors on
    another device are copied to and from.

    Where the solution is not differentiable, or not unique, the derivative is a selection, as for
    :func:`~optlayers.solve_qp`: that of the projection onto the cones, and the least-squares solution of least norm
    with a warning where no derivative exists.

    ``P`` and ``A`` may be sparse: torch CSR and CSC tensors, two-dimensional (shared) or batched on one pattern, or
    scipy matrices, which are constants. The gradient of a sparse tensor has its pattern.

    Args:
        P: ``(*, n, n)`` positive semidefinite, only its symmetric part enters; None for a linear objective.
        q: ``(*, n)``.
        A: ``(*, m, n)``, rows in the order of the cones.
        b: ``(*, m)``; of rows with ``s >= 0`` it may be ``inf``.
        cones: :class:`~optlayers.Cones`, what ``s`` is in.
        solver: the algorithm and its tolerance: :class:`~optlayers.Clarabel` or :class:`~optlayers.SCS`.
        adjoint: :class:`~optlayers.Implicit`, or :class:`~optlayers.Diffcp` for comparison.
        throw: raise :class:`~optlayers.SolveError` if a sample fails. Otherwise, and where values cannot be read
            (vmap, torch.func), a failed sample has NaN in ``x``, zero gradient, and its reason in ``status``.
            Certificates are in ``z`` (PRIMAL_INFEASIBLE: ``A'z = 0``, ``b'z < 0``, its largest entry one) and in ``s``
            (DUAL_INFEASIBLE: ``s = -Ad`` for a direction of descent ``d`` whose largest entry is one); all else of
            failed samples is NaN.

    Returns:
        :class:`ConeSolution`, with the dtype and device of the arguments.

    Raises:
        TypeError: an argument is no tensor, or no matrix.
        ValueError: shapes, dtypes or devices that do not fit.
        SolveError: a sample is infeasible, unbounded, invalid or did not converge, and ``throw`` is set.

    References: Agrawal et al., "Differentiating through a cone program" (2019); Goulart and Chen, "Clarabel" (2024).
    """
    if not isinstance(adjoint, Implicit | Diffcp):
        raise ValueError(f"solve_cone: adjoint is {adjoint!r}; expected ol.Implicit(...) or ol.Diffcp(...).")
    structure, batch, data, dtype = cone_data(P, q, A, b, cones)
    found = solve_values(structure, data, batch.numel(), solver, adjoint)
    if throw and can_read(found.status) and bool((found.status != int(Status.SOLVED)).any()):
        raise solve_error("solve_cone", found.status.reshape(batch), found.residuals.reshape(*batch, 2))
    values = [value.to(dtype) if value.is_floating_point() else value for value in found]
    return ConeSolution(*(value.reshape((*batch, *value.shape[1:])) for value in values))


def solve_values(
    structure: Structure,
    data: Sequence[Tensor],
    count: int,
    solver: ConeSolver,
    adjoint: Implicit | Diffcp = Implicit(),
) -> ConeSolution:
    """The programs whose values ``P, q, A, b`` on the patterns are ``(count or 1, *)`` float64; nothing is thrown."""
    P, q, A, b = data
    absent = absent_rows(structure, b)
    if absent is not None:
        A, b = without_rows(structure, A, b, absent)
    point = Point(*opaque(lambda size, data: find_point(structure, solver, size, data), count, [P, q, A, b]))
    status, iterations = point.status.long(), point.iterations.long()
    solved = status == int(Status.SOLVED)
    keep = solved.unsqueeze(-1)
    all_solved = can_read(solved) and bool(solved.all())
    data = [P, q, A, b]
    at = [point.x, point.v, point.s, point.z]
    if not all_solved:  # whatever is in the data and the points of failed samples (NaN, say) must not reach a gradient
        data = [torch.where(keep, value, 0.0) for value in data]
        at[2:] = [torch.where(keep, value, 0.0) for value in at[2:]]
    if isinstance(adjoint, Diffcp):
        x, s, z = attach_diffcp(structure, adjoint, at, [*data, point.w])
    else:
        x, s, z = attach_point(structure, adjoint, at, [*data, point.w])
    if absent is not None:
        s = torch.where(absent, torch.inf, s)
    if not all_solved:
        x = torch.where(keep, x, torch.nan)
        s, z = torch.where(keep, s, point.s), torch.where(keep, z, point.z)
    return ConeSolution(x, s, z, status, iterations, point.residuals)
