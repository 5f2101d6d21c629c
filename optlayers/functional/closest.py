"""The closest feasible quadratic program: what to solve, and to differentiate, when the constraints contradict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base.loop import can_read
from .._base.status import Status, solve_error
from ..implicit import Adjoint, Implicit
from ..solvers import InteriorPoint
from .qp import QPSolution, solve_qp
from .qp_data import OWN_DIMS, complete_data

SOLVED, INFEASIBLE = int(Status.SOLVED), int(Status.PRIMAL_INFEASIBLE)


class ClosestQPSolution(NamedTuple):
    """The solution of the closest feasible program, and how far that program is from the one asked for.

    Attributes:
        solution: :class:`~optlayers.QPSolution`; ``s`` is ``h + shift_h - Gx``.
        shift_h: ``(*, m)`` nonnegative: ``Gx <= h + shift_h``. Zero where the program is feasible.
        shift_b: ``(*, k)``: ``Ax = b + shift_b``. Zero where the program is feasible.
    """

    solution: QPSolution
    shift_h: Tensor
    shift_b: Tensor

    @property
    def x(self) -> Tensor:
        """The minimizer, ``solution.x``."""
        return self.solution.x


def solve_closest_qp(
    Q: Tensor,
    p: Tensor,
    G: Tensor | None = None,
    h: Tensor | None = None,
    A: Tensor | None = None,
    b: Tensor | None = None,
    *,
    lb: Tensor | None = None,
    ub: Tensor | None = None,
    solver: InteriorPoint = InteriorPoint(),
    adjoint: Adjoint = Implicit(),
    throw: bool = True,
) -> ClosestQPSolution:
    r"""Solve each quadratic program of a batch, or the closest feasible one where it has no feasible point.

    .. math:: \min_x\ \tfrac12 x^\top Q x + p^\top x
              \quad\text{s.t.}\quad Gx \le h + t^\star,\; Ax = b + r^\star,\; l \le x \le u

    .. math:: (t^\star, r^\star) = \arg\min_{t,\,r}\ \tfrac12\|t\|^2 + \tfrac12\|r\|^2
              \quad\text{s.t. some } x \text{ satisfies these constraints}

    The shifts are unique, zero for a feasible program, and differentiable like everything else, so that a model with
    learned constraints can be trained from an infeasible start. Bounds are never shifted.

    Args:
        Q, p, G, h, A, b, lb, ub, solver, adjoint: as in :func:`~optlayers.solve_qp`.
        throw: raise for the failures that remain, such as an unbounded objective; see :func:`~optlayers.solve_qp`.

    Returns:
        :class:`ClosestQPSolution`.

    Raises:
        TypeError, ValueError: as in :func:`~optlayers.solve_qp`.
        SolveError: a sample failed for another reason than infeasibility, and ``throw`` is set.

    References: Bambade et al., "QPLayer: efficient differentiation of convex quadratic optimization" (2024).
    """
    options = {"solver": solver, "adjoint": adjoint, "throw": False}
    batch, data = complete_data(Q, p, G, h, A, b, lb, ub)
    data = batch.flatten(data, OWN_DIMS)
    asked = _solve(data, options)
    h, b = data[3], data[5]
    flat = [*asked, torch.zeros_like(h), torch.zeros_like(b)]
    infeasible = asked.status == INFEASIBLE
    if not can_read(infeasible):
        flat = [_where(infeasible, *pair) for pair in zip(_solve_shifted(data, options), flat, strict=True)]
    elif bool(infeasible.any()):
        index = infeasible.nonzero().squeeze(-1)
        parts = _solve_shifted([value[index] for value in data], options)
        flat = [value.index_copy(0, index, part) for value, part in zip(flat, parts, strict=True)]

    *fields, shift_h, shift_b = batch.unflatten(flat)
    solution = QPSolution(*fields)
    if throw and can_read(solution.status) and bool((solution.status != SOLVED).any()):
        raise solve_error("solve_closest_qp", solution.status, solution.residuals)
    return ClosestQPSolution(solution, shift_h, shift_b)


def _solve(data: Sequence[Tensor], options: dict[str, Any]) -> QPSolution:
    *program, lb, ub = data
    return solve_qp(*program, lb=lb if lb.shape[-1] else None, ub=ub if ub.shape[-1] else None, **options)


def _solve_shifted(data: Sequence[Tensor], options: dict[str, Any]) -> list[Tensor]:
    """Find the shifts, then solve with them: the fields of a solution, then the shifts."""
    Q, p, G, h, A, b, lb, ub = data
    k = b.shape[-1]
    first, shift_h, shift_b = _shifts(data, options)
    # The shifts being unique, every point of the shifted program has (Gx - h)+ = shift_h: its shifted rows are
    # equalities. Left as inequalities they would be a set without interior, and without bounded multipliers.
    shifted = shift_h > 1e-8 * (1 + h.abs().nan_to_num(posinf=0.0))
    rows = torch.where(shifted[..., None], G, 0.0)
    values = torch.where(shifted, h + shift_h, 0.0)
    rest = torch.where(shifted, torch.inf, h)
    program = [Q, p, G, rest, torch.cat([A, rows], 1), torch.cat([b + shift_b, values], 1), lb, ub]
    second = _solve(program, options)
    solution = second._replace(
        y=second.y[:, :k],
        z=torch.where(shifted, second.y[:, k:], second.z),
        s=torch.where(shifted, 0.0, second.s),
        status=torch.where(first.status == SOLVED, second.status, first.status),
    )
    return [*solution, shift_h, shift_b]


def _shifts(data: Sequence[Tensor], options: dict[str, Any]) -> tuple[QPSolution, Tensor, Tensor]:
    """``min |t|^2 / 2 + |Ax - b|^2 / 2  s.t.  Gx - t <= h,  lb <= x <= ub``, over ``(x, t)``."""
    _, p, G, h, A, b, lb, ub = data
    n, m = p.shape[-1], h.shape[-1]
    t = torch.eye(m, dtype=p.dtype, device=p.device).expand(p.shape[0], m, m)
    Q = torch.cat(
        [torch.cat([A.mT @ A, p.new_zeros(p.shape[0], n, m)], 2), torch.cat([t.new_zeros(p.shape[0], m, n), t], 2)], 1
    )
    linear = torch.cat([-(A.mT @ b[..., None])[..., 0], torch.zeros_like(h)], 1)
    free = torch.full_like(h, torch.inf)
    lower = torch.cat([lb, -free], 1) if lb.shape[-1] else lb
    upper = torch.cat([ub, free], 1) if ub.shape[-1] else ub
    none, nothing = p.new_zeros(p.shape[0], 0, n + m), p.new_zeros(p.shape[0], 0)
    solution = _solve([Q, linear, torch.cat([G, -t], 2), h, none, nothing, lower, upper], options)
    x, t = solution.x[:, :n], solution.x[:, n:]
    return solution, t, (A @ x[..., None])[..., 0] - b


def _where(mask: Tensor, value: Tensor, other: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (value.dim() - 1)), value, other)
