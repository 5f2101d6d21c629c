"""How a quadratic program is differentiated: its KKT residual on the active set, and the linear solver that fits it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .._base.loop import can_read, free_to_read
from .._base.numeric import matvec
from .._native import ops
from ..implicit import Implicit
from ..implicit.residual import ResidualRule
from ..implicit.rule import Rule
from ..linear_solve import ConvergenceWarning
from .qp_data import OWN_DIMS, Batch, surely_at_most

# The arguments of the rule are the data, each in its own shape, and the masks of the active inequalities; those of the
# linear system are Q, G, A and the masks.
SYSTEM, SYSTEM_DIMS = (0, 2, 4, 8, 9, 10), (2, 2, 2, 1, 1, 1)


def residual(point: Sequence[Tensor], args: Sequence[Tensor]) -> list[Tensor]:
    """The KKT residual on a fixed active set (IPM-18), polynomial and square; ``point = (x, y, z, z_lb, z_ub, s)``."""
    x, y, z, z_lb, z_ub, s = point
    Q, p, G, h, A, b, lb, ub, active_G, active_lb, active_ub = args
    Qx = 0.5 * (matvec(Q, x) + matvec(Q.mT, x))  # only Q's symmetric part enters
    excess = matvec(G, x) - h
    return [
        Qx + p + matvec(A.mT, y) + constraints_transposed(G, z, z_lb, z_ub),
        matvec(A, x) - b,
        torch.where(active_G, excess, z),
        torch.where(active_lb, lb - x, z_lb) if lb.shape[-1] else z_lb,
        torch.where(active_ub, x - ub, z_ub) if ub.shape[-1] else z_ub,
        s + excess,
    ]


class QPRule(Rule):
    """The KKT system on the problem's active set, solved by the native factorization (IPM-19)."""

    differentiable = [True] * 8 + [False] * 3

    def __init__(self, batch: Batch):
        self.batch = batch

    def residual(self, x, args):
        return residual(x, args)

    def solve_linear(self, x, args, rhs, transpose):
        G, active = args[2], args[8:]
        r_x, r_y, *r_z, r_s = rhs
        if transpose:
            r_x = r_x - matvec(G.mT, r_s)
        else:  # rows of inactive constraints read d_z = r_z, and d_z enters stationarity
            inactive = [torch.where(mask, 0.0, r) for mask, r in zip(active, r_z, strict=True)]
            r_x = r_x - constraints_transposed(G, *inactive)
        *d, error = ops.qp_kkt(*self._system(args), *self.batch.flatten([r_x, r_y, *r_z], (1,) * 5))
        warn_if_singular(error, G.dtype)
        d_x, d_y, *d_z = self.batch.unflatten(d)
        row = matvec(G, d_x)
        if transpose:
            bounds = [sign * d_x if r.shape[-1] else r for sign, r in zip((-1, 1), r_z[1:], strict=True)]
            inactive = [r - moved for r, moved in zip(r_z, (row, *bounds), strict=True)]
        merged = [torch.where(mask, *pair) for mask, *pair in zip(active, d_z, inactive, strict=True)]
        return [d_x, d_y, *merged, r_s if transpose else r_s - row]

    def vjp(self, x, args, cotangent, needed):
        batch, (v_x, *v, v_s) = self.batch, cotangent
        if v_x is None:
            v_x = torch.zeros_like(x[0])
        if v_s is not None:  # s = h - Gx
            v_x = v_x - matvec(args[2].mT, v_s)
        # The op forms one gradient a sample; where an argument is shared by several, only their sum is ever formed.
        shared = [False] * 8 if batch.flat else [batch.shares(*pair) for pair in zip(args[:8], OWN_DIMS, strict=True)]
        want_Q, want_G, want_A = (needed[i] and not shared[i] for i in (0, 2, 4))
        x, y, z, v_x = batch.flatten([*x[:3], v_x], (1,) * 4)
        if not batch.flat:
            v = [None if value is None else batch.flatten([value], (1,))[0] for value in v]
        inputs = [*self._system(args), x, y, z, v_x, *v]
        result = ops.qp_backward(*inputs, want_Q=want_Q, want_G=want_G, want_A=want_A)
        u_x, u_y, u_h, u_lb, u_ub, grad_Q, grad_G, grad_A, error = result
        warn_if_singular(error, x.dtype)
        if v_s is not None:
            (v_s,) = batch.flatten([v_s], (1,))
            u_h = u_h + v_s
            grad_G = grad_G - v_s.unsqueeze(-1) * x.unsqueeze(-2) if want_G else grad_G

        if needed[0] and shared[0]:
            grad_Q = _contract((u_x / 2, x), (x / 2, u_x))
        if needed[2] and shared[2]:
            grad_G = _contract((z, u_x), (u_h, x))
        if needed[4] and shared[4]:
            grad_A = _contract((y, u_x), (u_y, x))
        grads = [grad_Q, -u_x, grad_G, u_h, grad_A, u_y, -u_lb if needed[6] else None, u_ub, None, None, None]
        grads = [grad if need else None for grad, need in zip(grads, needed, strict=True)]
        if batch.flat:
            return grads
        return [None if grad is None else batch.reduce(grad, arg) for grad, arg in zip(grads, args, strict=True)]

    def _system(self, args: Sequence[Tensor]) -> list[Tensor]:
        return self.batch.flatten([args[i] for i in SYSTEM], SYSTEM_DIMS)


def _contract(*terms: tuple[Tensor, Tensor]) -> Tensor:
    """Minus the sum of outer products of batched vectors, over the terms and the batch."""
    left, right = (torch.cat(vectors) for vectors in zip(*terms, strict=True))  # (terms * B, m), (terms * B, n)
    return -(left.mT @ right)


def qp_rule(adjoint: Implicit, batch: Batch) -> Rule:
    """The rule for the linear solver that `adjoint` names, or for the problem's own."""
    if adjoint.linear_solve is None:
        return QPRule(batch)
    return ResidualRule(residual, list, adjoint.linear_solve, QPRule.differentiable)


def constraints_transposed(G: Tensor, z: Tensor, z_lb: Tensor, z_ub: Tensor) -> Tensor:
    """``G'z - z_lb + z_ub``."""
    total = matvec(G.mT, z)
    if z_lb.shape[-1]:
        total = total - z_lb
    if z_ub.shape[-1]:
        total = total + z_ub
    return total


def warn_if_singular(error: Tensor, dtype: torch.dtype) -> None:
    """Warn where the relative residual of a KKT system says that it has no solution, hence `x` no derivative.

    Not on a GPU, whose work a backward pass would have to wait for.
    """
    tolerance = 1e-6 if dtype == torch.float64 else 1e-2
    if not free_to_read(error) or surely_at_most(error, tolerance):
        return
    singular = error > tolerance
    if not can_read(singular) or not singular.any():
        return
    samples = singular.nonzero().flatten().tolist()
    warnings.warn(
        f"solve_qp: no exact derivative exists for samples {samples[:10]}: their KKT system is singular (the solution "
        f"or its multipliers are not unique), with relative residual {error.max().item():.1e}. The least-squares one "
        f"of least norm was used. Make Q positive definite, or remove dependent constraints.",
        ConvergenceWarning,
        stacklevel=2,
    )
