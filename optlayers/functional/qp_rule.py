"""How a quadratic program is differentiated: its KKT residual on the active set, and the linear solver that fits it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .._base.loop import can_read, surely_none
from .._native import ops
from ..implicit import Implicit
from ..implicit.residual import ResidualRule
from ..implicit.rule import Rule
from ..linear_solve import ConvergenceWarning
from .qp_data import expanded


def residual(point: Sequence[Tensor], args: Sequence[Tensor]) -> list[Tensor]:
    """The KKT residual on a fixed active set (IPM-18): ``point = (x, y, z, z_lb, z_ub)``, polynomial, square."""
    x, y, z, z_lb, z_ub = point
    Q, p, G, h, A, b, lb, ub, active_G, active_lb, active_ub = args
    stationarity = (
        0.5 * (matvec(Q, x) + matvec(Q.mT, x)) + p + matvec(G.mT, z) + matvec(A.mT, y)
    )  # only Q's symmetric part enters
    if lb.shape[-1]:
        stationarity = stationarity - z_lb
    if ub.shape[-1]:
        stationarity = stationarity + z_ub
    return [
        stationarity,
        matvec(A, x) - b,
        torch.where(active_G, matvec(G, x) - h, z),
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
        warn_if_singular(error, Q.dtype)
        if transpose:
            rows = [matvec(G, d_x), -d_x if lb.shape[-1] else lb, d_x if ub.shape[-1] else ub]
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
        warn_if_singular(result.error, Q.dtype)
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


def qp_rule(adjoint: Implicit) -> Rule:
    """The rule for the linear solver that `adjoint` names, or for the problem's own."""
    if adjoint.linear_solve is None:
        return QPRule()
    return ResidualRule(residual, list, adjoint.linear_solve, QPRule.differentiable)


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices times vectors, batches broadcast."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _constraints_transposed(G: Tensor, lb: Tensor, ub: Tensor, z: Sequence[Tensor]) -> Tensor:
    """``G'z - z_lb + z_ub``."""
    total = matvec(G.mT, z[0])
    if lb.shape[-1]:
        total = total - z[1]
    if ub.shape[-1]:
        total = total + z[2]
    return total


def warn_if_singular(error: Tensor, dtype: torch.dtype) -> None:
    """Warn where the relative residual of a KKT system says that it has no solution, hence `x` no derivative."""
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
