"""Quadratic programs: a batch of them to a differentiable solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import can_read, free_to_read
from .._base.pattern import Matrix, is_sparse
from .._base.status import Status, solve_error
from ..implicit import Adjoint, Implicit, Smoothed, Unroll
from ..implicit.rule import attach
from ..implicit.tracking import paused
from ..solvers import ADMM, InteriorPoint
from ..solvers.sparse import SparseSolver
from ..solvers.warm_start import Guess
from .qp_data import OWN_DIMS, Batch, complete_data, surely_at_most
from .qp_rule import qp_rule
from .smoothed_rule import attach_smoothed


class QPSolution(NamedTuple):
    """Solutions of a batch of quadratic programs; all but the last three are differentiable.

    Attributes:
        x: ``(*, n)`` the minimizer.
        y: ``(*, k)`` multipliers of ``Ax = b``.
        z: ``(*, m)`` multipliers of ``Gx <= h``, nonnegative.
        z_lb, z_ub: ``(*, n)`` multipliers of the bounds, nonnegative; ``(*, 0)`` where no bound was given.
        s: ``(*, m)`` slacks ``h - Gx``.
        status: ``(*)`` int64, one :class:`~optlayers.Status` per sample.
        iterations: ``(*)`` int64, factorizations taken.
        residuals: ``(*, 3)`` primal, dual and complementarity residual, each the largest over its equations relative to
            the terms of that equation (IPM-10), at the point that is returned; a sample is SOLVED if all three are at
            most ``solver.eps``. Of failed samples: those of the last iterate; NaN for invalid input.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    z_lb: Tensor
    z_ub: Tensor
    s: Tensor
    status: Tensor
    iterations: Tensor
    residuals: Tensor


def solve_qp(
    Q: Matrix,
    p: Tensor,
    G: Matrix | None = None,
    h: Tensor | None = None,
    A: Matrix | None = None,
    b: Tensor | None = None,
    *,
    lb: Tensor | None = None,
    ub: Tensor | None = None,
    solver: InteriorPoint | ADMM | SparseSolver = InteriorPoint(),
    adjoint: Adjoint = Implicit(),
    throw: bool = True,
    init: QPSolution | None = None,
) -> QPSolution:
    r"""Solve a batch of convex quadratic programs.

    .. math:: \min_x\ \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad Gx \le h,\; Ax = b,\; l \le x \le u

    Differentiable in every tensor argument, in both modes, at any order, in ``x``, ``s`` and all multipliers. An
    argument without batch dimensions is shared by the batch, and its gradient is the sum over it.

    ``Q``, ``G`` and ``A`` may be sparse (``torch.sparse_csr``, ``torch.sparse_csc``, or scipy for constants). The
    program then goes to a sparse solver, :class:`~optlayers.Clarabel` by default, gradients come back in the pattern,
    and ``vmap`` is refused.

    Where the solution is not differentiable, or not unique, the derivative is a selection: a weakly active constraint
    (zero slack, zero multiplier) counts as inactive, and a singular KKT system is solved in the least-squares sense
    with least norm, with a warning if its residual says that no derivative exists.

    Args:
        Q: ``(*, n, n)`` positive semidefinite; only its symmetric part enters.
        p: ``(*, n)``.
        G, h: ``(*, m, n)`` and ``(*, m)``; ``h`` may hold ``inf``.
        A, b: ``(*, k, n)`` and ``(*, k)``; rows may be dependent.
        lb, ub: ``(*, n)`` bounds, which may be infinite, and equal to fix a variable.
        solver: the algorithm and its tolerance.
        adjoint: :class:`~optlayers.Implicit` (exact), :class:`~optlayers.Smoothed` (approximate, for linear programs
            and others whose exact derivative is zero) or :class:`~optlayers.Unroll` (through the iterations).
        throw: raise :class:`~optlayers.SolveError` if a sample fails. Otherwise, and where values cannot be read
            (vmap, torch.func, torch.compile), a failed sample has NaN in ``x`` and ``s``, zero gradient, and its reason
            in ``status``; its multipliers hold the certificate of infeasibility. On a GPU this look at the status is
            all that the host waits for: without it, and in backward, nothing is read, and there is no warning of a KKT
            system that is singular.
        init: the solution of a similar problem, with the same sizes and a batch that broadcasts to this one. Samples
            whose active constraints are those of `init`, or can be told from it, cost one linear solve and report one
            iteration; all others are solved from scratch, so that a bad or failed `init` changes no answer. It gets no
            gradient. Where values cannot be read it is not looked at. It pays from some 200 variables on.

    Returns:
        :class:`QPSolution`, with the dtype and device of the arguments.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: shapes, dtypes or devices that do not fit; a dense program too large for the machine.
        SolveError: a sample is infeasible, unbounded, invalid or did not converge, and ``throw`` is set.

    References: Amos and Kolter, "OptNet" (2017); Mehrotra (1992); Schwan et al., "PIQP" (2023).
    """
    if is_sparse(Q) or is_sparse(G) or is_sparse(A):
        from .sparse_qp import solve_sparse_qp  # it imports QPSolution

        if init is not None:
            raise ValueError("solve_qp: init is given, but a matrix is sparse; expected None. Leave it out.")
        if isinstance(solver, ADMM):
            raise ValueError("solve_qp: solver is ol.ADMM, but a matrix is sparse; expected ol.Clarabel or dense data.")
        return solve_sparse_qp(Q, p, G, h, A, b, lb=lb, ub=ub, solver=solver, adjoint=adjoint, throw=throw)
    if not isinstance(solver, InteriorPoint | ADMM):
        raise ValueError(f"solve_qp: solver is {solver!r}, for sparse matrices; expected ol.InteriorPoint or ol.ADMM.")
    batch, data = complete_data(Q, p, G, h, A, b, lb, ub)  # pyright: ignore[reportArgumentType] - dense by now
    if isinstance(adjoint, Implicit | Smoothed):
        with paused():
            flat = batch.flatten(data, OWN_DIMS)
            values = solver(flat) if init is None else solver(flat, _guess(init, data, batch))
    elif adjoint == Unroll():
        if init is not None:
            raise ValueError("solve_qp: init is given, but the iterations of ol.Unroll() start cold; expected None.")
        values = solver.unrolled(batch.flatten(data, OWN_DIMS))
    else:
        raise ValueError(
            f"solve_qp: adjoint is {adjoint!r}; expected ol.Implicit(...), ol.Smoothed(...) or ol.Unroll(). The "
            f"others need a fixed-point map, which an interior-point method does not have."
        )
    # Without `throw` a GPU need not be waited for: what follows is right whether all are SOLVED or not.
    all_solved = (throw or free_to_read(values[9])) and surely_at_most(values[9], 0)
    *solution, active_G, active_lb, active_ub, status, iterations, residuals = batch.unflatten(values)
    active = [active_G, active_lb, active_ub]
    found, solved = solution, None
    if not all_solved:
        if throw and can_read(status):
            raise solve_error("solve_qp", status, residuals)
        solved = status == int(Status.SOLVED)  # torch.compile cannot compare with the enum
        data, solution = _neutral(solved, data), [_where(solved, value, 0.0) for value in solution]
        active = [_where(solved, mask, False) for mask in active]
    if isinstance(adjoint, Implicit):
        solution = attach(qp_rule(adjoint, batch), solution, [*data, *active], fresh=len(batch.shape) == 1)
    elif isinstance(adjoint, Smoothed):
        solution = attach_smoothed(adjoint, batch, data, solution, solved)  # pyright: ignore[reportCallIssue]
    if solved is not None:
        x, *certificates, slack = found
        found = [torch.full_like(x, torch.nan), *certificates, torch.full_like(slack, torch.nan)]
        solution = [_where(solved, *pair) for pair in zip(solution, found, strict=True)]
    return QPSolution._make([*solution, status, iterations, residuals])


def _guess(init: QPSolution, data: Sequence[Tensor], batch: Batch) -> Guess:
    """What `init` says about where the solution is, checked and brought to the batch of the program."""
    if not isinstance(init, QPSolution):
        raise TypeError(f"solve_qp: init is a {type(init).__name__}; expected a QPSolution, what solve_qp returns.")
    fields = init.x, init.z, init.z_lb, init.z_ub
    names, sizes = ("x", "z", "z_lb", "z_ub"), [data[i].shape[-1] for i in (1, 3, 6, 7)]
    for name, size, value in zip(names, sizes, fields, strict=True):
        fits = value.shape[-1] == size and value.dtype == data[0].dtype and value.device == data[0].device
        if not (fits and batch.takes(value.shape[:-1])):
            raise ValueError(
                f"solve_qp: init.{name} is {value.dtype} {tuple(value.shape)} on {value.device}; expected dtype and "
                f"device of Q, and a shape that broadcasts to {(*batch.shape, size)}. Pass the solution of a program "
                f"of the same sizes."
            )
    return Guess(*batch._replace(flat=False).flatten(fields, (1,) * 4))


def _where(mask: Tensor, value: Tensor, other: Tensor | float | bool) -> Tensor:
    return torch.where(mask.unsqueeze(-1), value, other)


def _neutral(solved: Tensor, data: Sequence[Tensor]) -> list[Tensor]:
    """Replace the data of failed samples, so that whatever is in them (NaN, say) cannot reach a gradient."""
    Q = data[0]
    other = [torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device), *[0.0] * 7]
    masks = [solved.unsqueeze(-1) if own == 2 else solved for own in OWN_DIMS]
    return [_where(*triple) for triple in zip(masks, data, other, strict=True)]
