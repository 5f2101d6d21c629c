"""Equilibrated batches of quadratic programs and their active-set systems, in plain torch (docs/theory/qp.md)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .._base.loop import surely_none

# Proximal terms of the equilibrated problem (IPM-5): they bend the path, never its end. Active rows enter the
# condensed matrix with weight 1/DELTA, whose rounding error, 1e-16/DELTA, has to stay below RHO.
RHO = 1e-8
DELTA = 1e-7
RUIZ_PASSES = 5
REFINEMENTS = 6


@dataclass(frozen=True)
class Program:
    """A batch of equilibrated programs whose N = k + m + (n) + (n) rows [A; G; -I; I] share one index.

    `present` and `equality` are (B, N) masks: an infinite right-hand side makes a row absent; rows of A and fixed
    variables (lb = ub, kept as the row of ub) are equalities, with no slack and a multiplier of either sign.
    """

    Q: Tensor  # (B, n, n)
    p: Tensor  # (B, n)
    C: Tensor  # (B, k + m, n) = [A; G]
    c: Tensor  # (B, N) = [b; h; -lb; ub], 0 at absent rows
    equality: Tensor
    present: Tensor
    column: Tensor  # (B, n): x = column * x_scaled
    row: Tensor  # (B, N): multiplier = row * scaled / cost, slack = scaled / row
    cost: Tensor  # (B, 1)
    lower: int  # number of rows of -I: n, or 0 where no lower bounds were given
    upper: int

    @property
    def inequality(self) -> Tensor:
        return self.present & ~self.equality

    def quadratic(self, x: Tensor) -> Tensor:
        """Q x."""
        return (self.Q @ x.unsqueeze(-1)).squeeze(-1)

    def rows(self, x: Tensor) -> Tensor:
        """[A; G; -I; I] x, zero at absent rows."""
        dense = (self.C @ x.unsqueeze(-1)).squeeze(-1)
        return torch.where(self.present, torch.cat([dense, -x[:, : self.lower], x[:, : self.upper]], -1), 0.0)

    def adjoint(self, v: Tensor) -> Tensor:
        """[A; G; -I; I]' v."""
        dense, low, high = self._split(v)
        return (self.C.mT @ dense.unsqueeze(-1)).squeeze(-1) - low + high

    def factor(self, weight: Tensor) -> Tensor:
        """Cholesky factor of Q + rho I + rows' diag(weight) rows (IPM-6); NaN where it has none.

        A rho that rounding swallows is raised, a hundredfold at a time.
        """
        dense, low, high = self._split(weight)
        gram = self.Q + self.C.mT @ (dense.unsqueeze(-1) * self.C)
        rho = torch.full_like(self.cost, RHO)
        for _ in range(4):
            factor, info = torch.linalg.cholesky_ex(gram + torch.diag_embed(rho + low + high))
            bad = info.unsqueeze(-1) > 0
            if surely_none(bad):
                break
            rho = torch.where(bad, 100 * rho, rho)
        return torch.where(bad.unsqueeze(-1), torch.nan, factor)

    def take(self, index: Tensor) -> Program:
        """The programs of some samples."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "Tensor"}
        return replace(self, **{name: value[index] for name, value in tensors.items()})

    def _split(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dense, low, high = v.split([self.C.shape[-2], self.lower, self.upper], -1)
        zero = torch.zeros_like(self.p)
        return dense, low if self.lower else zero, high if self.upper else zero


def largest(v: Tensor) -> Tensor:
    """Max-norm over the last dimension, kept; 0 of nothing."""
    return v.abs().amax(-1, keepdim=True) if v.shape[-1] else v.new_zeros(*v.shape[:-1], 1)


def symmetric_part(Q: Tensor) -> Tensor:
    """(Q + Q')/2, which is all of Q that counts."""
    return 0.5 * (Q + Q.mT)


def solve_factored(factor: Tensor, rhs: Tensor) -> Tensor:
    return torch.cholesky_solve(rhs.unsqueeze(-1), factor).squeeze(-1)


def equilibrate(Q: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Ruiz scaling of [[Q, C'], [C, 0]]: column (B, n) and row (B, rows) factors, powers of two (IPM-3).

    Powers of two make scaling exact. Q and the rows are first brought to max-norm one, so that scaling the objective
    or a row changes nothing afterwards.
    """
    with torch.no_grad():
        Q = _divide(Q.abs(), Q.abs().flatten(1).amax(-1)[:, None, None])
        C = C.abs()
        column, row = torch.ones_like(Q[..., 0]), torch.ones_like(C[..., 0])
        if C.shape[-2]:
            row = _divide(row, C.amax(-1))
        for _ in range(RUIZ_PASSES):
            size = (column.unsqueeze(-1) * Q * column.unsqueeze(-2)).amax(-2)
            if C.shape[-2]:
                scaled = row.unsqueeze(-1) * C * column.unsqueeze(-2)
                size = torch.maximum(size, scaled.amax(-2))
                row = _divide(row, scaled.amax(-1).sqrt())
            column = _divide(column, size.sqrt())
        return _power_of_two(column), _power_of_two(row)


def build(Q, p, G, h, A, b, lb, ub) -> Program:
    """Equilibrate, scale the cost to one, and stack the rows."""
    column, row = equilibrate(Q, torch.cat([A, G], -2))
    cost = _power_of_two(_cost_scale(column.unsqueeze(-1) * Q * column.unsqueeze(-2), column * p))
    row = torch.cat([row, (1 / column)[:, : lb.shape[-1]], (1 / column)[:, : ub.shape[-1]]], -1)
    c = torch.cat([b, h, -lb, ub], -1)
    present = torch.isfinite(c)
    equality = torch.zeros_like(present)
    k, rows, bounds = b.shape[-1], b.shape[-1] + h.shape[-1], lb.shape[-1]
    equality[:, :k] = True
    if lb.shape[-1] and ub.shape[-1]:
        equality[:, rows + bounds :] = lb == ub
        present[:, rows : rows + bounds] &= lb != ub
    return Program(
        Q=cost.unsqueeze(-1) * column.unsqueeze(-1) * Q * column.unsqueeze(-2),
        p=cost * column * p,
        C=row[:, :rows, None] * torch.cat([A, G], -2) * column.unsqueeze(-2),
        c=row * torch.where(present, c, 0.0),
        equality=equality & present,
        present=present,
        column=column,
        row=row,
        cost=cost,
        lower=lb.shape[-1],
        upper=ub.shape[-1],
    )


def active_set_solve(program: Program, active: Tensor, r_x: Tensor, r_row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Solve the equality-constrained system of the `active` rows (IPM-11), regularised and refined.

    .. math:: Q\,dx + C_a^\top d\lambda = r_x, \qquad C_a\,dx = r_{row}

    The refinement runs on the system without regularisation. It starts at zero, so that a consistent singular system
    ends at its solution of least norm. Returns dx (B, n), dlambda (B, N) and the max-norm of the residual (B, 1).
    """
    weight = active.to(r_x.dtype) / DELTA
    factor = program.factor(weight)
    r_row = torch.where(active, r_row, 0.0)
    dx, dual = torch.zeros_like(r_x), torch.zeros_like(r_row)
    e_x, e_row = r_x, r_row
    best = torch.maximum(largest(e_x), largest(e_row))
    refining = torch.ones_like(best, dtype=torch.bool)
    for _ in range(REFINEMENTS):
        step = solve_factored(factor, e_x + program.adjoint(weight * e_row))
        new_x, new_dual = dx + step, dual + weight * (program.rows(step) - e_row)
        e_x = r_x - program.quadratic(new_x) - program.adjoint(new_dual)
        e_row = torch.where(active, r_row - program.rows(new_x), 0.0)
        error = torch.maximum(largest(e_x), largest(e_row))
        better = refining & (error < best)
        dx, dual = torch.where(better, new_x, dx), torch.where(better, new_dual, dual)
        refining = better & (error < 0.5 * best)
        best = torch.where(better, error, best)
        if surely_none(refining):
            break
    return dx, dual, best


def _divide(value: Tensor, size: Tensor) -> Tensor:
    return value / torch.where(size > 0, size, 1.0)


def _cost_scale(Q: Tensor, p: Tensor) -> Tensor:
    size = torch.maximum(largest(p), Q.abs().amax(-1).mean(-1, keepdim=True))
    return _divide(torch.ones_like(size), size)


def _power_of_two(value: Tensor) -> Tensor:
    return torch.exp2(torch.round(torch.log2(value.detach())))
