"""Quadratic programs: a batch of them to a differentiable solution."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import can_read, surely_none
from .._base.status import Status, solve_error
from .._native import ops
from ..implicit import Adjoint, Implicit, Unroll
from ..implicit.residual import ResidualRule
from ..implicit.rule import Rule, attach
from ..implicit.tracking import paused
from ..linear_solve import ConvergenceWarning
from ..solvers import InteriorPoint
from .qp_data import expanded, flat_data


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
        residuals: ``(*, 3)`` relative residuals: primal, dual, complementarity.
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
) -> QPSolution:
    r"""Solve a batch of convex quadratic programs.

    .. math:: \min_x\ \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad Gx \le h,\; Ax = b,\; l \le x \le u

    Differentiable in every tensor argument, in both modes, at any order, in ``x``, ``s`` and all multipliers. An
    argument without batch dimensions is shared by the batch, and its gradient is the sum over it.

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
        adjoint: :class:`~optlayers.Implicit` (exact) or :class:`~optlayers.Unroll` (through the iterations).
        throw: raise :class:`~optlayers.SolveError` if a sample fails. Otherwise, and where values cannot be read
            (vmap, torch.func, torch.compile), a failed sample has NaN in ``x`` and ``s``, zero gradient, and its reason
            in ``status``; its multipliers hold the certificate of infeasibility.

    Returns:
        :class:`QPSolution`, with the dtype and device of the arguments.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: shapes, dtypes or devices that do not fit.
        SolveError: a sample is infeasible, unbounded, invalid or did not converge, and ``throw`` is set.

    References: Amos and Kolter, "OptNet" (2017); Mehrotra (1992); Schwan et al., "PIQP" (2023).
    """
    batch, data = flat_data(Q, p, G, h, A, b, lb, ub)
    count = batch.numel()
    if isinstance(adjoint, Implicit):
        with paused():
            values = solver(expanded(data, count))
    elif adjoint == Unroll():
        values = solver.unrolled(expanded(data, count))
    else:
        raise ValueError(
            f"solve_qp: adjoint is {adjoint!r}; expected ol.Implicit(...) or ol.Unroll(). The others need a "
            f"fixed-point map, which an interior-point method does not have."
        )
    *solution, s, active_G, active_lb, active_ub, status, iterations, residuals = values

    readable = can_read(status)
    solved = status == int(Status.SOLVED)  # torch.compile cannot compare with the enum
    all_solved = readable and bool(solved.all())
    if throw and readable and not all_solved:
        raise solve_error("solve_qp", status.reshape(batch), residuals.reshape(*batch, 3))

    certificates = solution
    if not all_solved:
        data, solution = _neutral(solved, data), [_where(solved, value, 0.0) for value in solution]
    if isinstance(adjoint, Implicit):
        active = [active_G, active_lb, active_ub]
        if not all_solved:
            active = [_where(solved, mask, False) for mask in active]
        solution = attach(_rule(adjoint), solution, [*data, *active])
    s = data[3] - _mv(data[2], solution[0])
    if not all_solved:
        certificates = [torch.full_like(solution[0], torch.nan), *certificates[1:]]
        solution = [torch.where(solved[:, None], *pair) for pair in zip(solution, certificates, strict=True)]
        s = torch.where(solved[:, None], s, torch.nan)
    values = [*solution, s, status, iterations, residuals]
    if len(batch) != 1:
        values = [value.reshape((*batch, *value.shape[1:])) for value in values]
    return QPSolution(*values)


def _where(mask: Tensor, value: Tensor, other: float | bool) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (value.dim() - 1)), value, other)


def _neutral(solved: Tensor, data: Sequence[Tensor]) -> list[Tensor]:
    """Replace the data of failed samples, so that whatever is in them (NaN, say) cannot reach a gradient."""
    Q, *others = data
    identity = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    return [torch.where(solved[:, None, None], Q, identity), *[_where(solved, value, 0.0) for value in others]]


def residual(point: Sequence[Tensor], args: Sequence[Tensor]) -> list[Tensor]:
    """The KKT residual on a fixed active set (IPM-18): ``point = (x, y, z, z_lb, z_ub)``, polynomial, square."""
    x, y, z, z_lb, z_ub = point
    Q, p, G, h, A, b, lb, ub, active_G, active_lb, active_ub = args
    stationarity = 0.5 * (_mv(Q, x) + _mv(Q.mT, x)) + p + _mv(G.mT, z) + _mv(A.mT, y)  # only Q's symmetric part enters
    if lb.shape[-1]:
        stationarity = stationarity - z_lb
    if ub.shape[-1]:
        stationarity = stationarity + z_ub
    return [
        stationarity,
        _mv(A, x) - b,
        torch.where(active_G, _mv(G, x) - h, z),
        torch.where(active_lb, lb - x, z_lb) if lb.shape[-1] else z_lb,
        torch.where(active_ub, x - ub, z_ub) if ub.shape[-1] else z_ub,
    ]


class QPRule(Rule):
    """The KKT system of a QP on its active set, solved by the native factorization (IPM-19)."""

    differentiable = [True] * 8 + [False] * 3

    def residual(self, x, args):
        return residual(x, args)

    def solve_linear(self, x, args, rhs, transpose):
        Q, _, G, _, A, _, lb, ub, *active = args
        r_x, r_y, *r_z = rhs
        matrices = expanded((Q, G, A), r_x.shape[0])
        if not transpose:  # rows of inactive constraints read d_z = r_z, and d_z enters stationarity
            inactive = [torch.where(mask, 0.0, r) for mask, r in zip(active, r_z, strict=True)]
            r_x = r_x - _constraints_transposed(G, lb, ub, inactive)
        d_x, d_y, *d_z, error = ops.qp_kkt(*[*matrices, *active, r_x, r_y, *r_z])
        _warn_if_singular(error, Q.dtype)
        if transpose:
            rows = [_mv(G, d_x), -d_x if lb.shape[-1] else lb, d_x if ub.shape[-1] else ub]
            inactive = [r - row for r, row in zip(r_z, rows, strict=True)]
        merged = [torch.where(mask, d, i) for mask, d, i in zip(active, d_z, inactive, strict=True)]
        return [d_x, d_y, *merged]

    def vjp(self, x, args, cotangent, needed):
        Q, _, G, _, A, _, _, _, *active = args
        x, y, z, _, _ = x
        batch = x.shape[0]
        # The op forms one gradient a sample; where an argument is shared by several, only their sum is ever formed.
        shared = [arg.shape[0] == 1 < batch for arg in args]
        want_Q, want_G, want_A = (needed[i] and not shared[i] for i in (0, 2, 4))
        inputs = [*expanded((Q, G, A), batch), *active, x, y, z, *cotangent]
        result = ops.qp_backward(*inputs, want_Q=want_Q, want_G=want_G, want_A=want_A)
        _warn_if_singular(result.error, Q.dtype)
        u_x, u_y, u_G, u_lb, u_ub, grad_Q, grad_G, grad_A = result[:8]

        grads: list[Tensor | None] = [None] * len(args)
        matrices = (
            (0, grad_Q, ((u_x / 2, x), (x / 2, u_x))),
            (2, grad_G, ((z, u_x), (u_G, x))),
            (4, grad_A, ((y, u_x), (u_y, x))),
        )
        for i, grad, terms in matrices:
            if needed[i]:
                grads[i] = _contract(terms) if shared[i] else grad
        for i, sign, vector in ((1, -1, u_x), (3, 1, u_G), (5, 1, u_y), (6, -1, u_lb), (7, 1, u_ub)):
            if needed[i]:
                signed = vector if sign > 0 else -vector
                grads[i] = signed.sum(0, keepdim=True) if shared[i] else signed
        return grads


def _contract(terms: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Minus the sum of outer products of batched vectors, over the terms and the batch."""
    left, right = (torch.cat(vectors) for vectors in zip(*terms, strict=True))  # (terms * B, m), (terms * B, n)
    return -(left.mT @ right).unsqueeze(0)


def _rule(adjoint: Implicit) -> Rule:
    if adjoint.linear_solve is None:
        return QPRule()
    return ResidualRule(residual, list, adjoint.linear_solve, QPRule.differentiable)


def _mv(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _constraints_transposed(G: Tensor, lb: Tensor, ub: Tensor, z: Sequence[Tensor]) -> Tensor:
    """``G'z - z_lb + z_ub``."""
    total = _mv(G.mT, z[0])
    if lb.shape[-1]:
        total = total - z[1]
    if ub.shape[-1]:
        total = total + z[2]
    return total


def _warn_if_singular(error: Tensor, dtype: torch.dtype) -> None:
    tolerance = 1e-6 if dtype == torch.float64 else 1e-2
    singular = error > tolerance
    if surely_none(singular) or not can_read(singular):
        return
    samples = singular.nonzero().flatten().tolist()
    warnings.warn(
        f"solve_qp: no exact derivative exists for samples {samples[:10]}: their KKT system is singular (the solution "
        f"or its multipliers are not unique), with relative residual {error.max().item():.1e}. The least-squares one "
        f"of least norm was used. Make Q positive definite, or remove dependent constraints.",
        ConvergenceWarning,
        stacklevel=2,
    )
