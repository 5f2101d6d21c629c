"""A batch of quadratic programs with all constraints as ``l <= C x <= u``, scaled and diagonalized for ADMM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._native.reference_program import equilibrate, symmetric_part

SIGMA = 1e-6
EQUALITY = 1e3  # weight of equality rows


@dataclass(frozen=True)
class Splitting:
    r"""The program in scaled units, ``x = column * x_scaled``; matrices have batch size 1 where they are shared.

    With ``S = Q + sigma I + C' W C = L L'`` and ``L^{-1} C' W C L^{-T} = U diag(d) U'`` the matrix of a step is
    ``Q + sigma I + rho C' W C = L U diag(1 - d + rho d) U' L'`` for every ``rho``: `basis` is ``L^{-T} U``.
    """

    Q: Tensor  # (1 or B, n, n)
    p: Tensor  # (B, n)
    C: Tensor  # (1 or B, k + m, n) = [A; G]; the rows of bounds are those of the identity
    lower: Tensor  # (B, N) = [b; -inf; lb]
    upper: Tensor  # (B, N) = [b; h; ub]
    weight: Tensor  # (N,)
    column: Tensor  # (1 or B, n)
    row: Tensor  # (1 or B, N)
    basis: Tensor  # (1 or B, n, n)
    share: Tensor  # (1 or B, n): d
    G: Tensor  # (B, m, n), h (B, m): in the user's units
    h: Tensor
    sizes: tuple[int, int, int, int]  # k, m, and the numbers of lower and of upper bounds: n or 0
    sigma: float = SIGMA

    @property
    def row_units(self) -> Tensor:
        """What rows are multiplied with to be in the user's units."""
        return 1 / self.row

    @property
    def column_units(self) -> Tensor:
        """The same for gradients."""
        return 1 / self.column

    def quadratic(self, x: Tensor) -> Tensor:
        """Q x."""
        return times(x, self.Q)

    def rows(self, x: Tensor) -> Tensor:
        """[A; G; I] x."""
        dense = times(x, self.C.mT)
        return torch.cat([dense, x], -1) if self.weight.shape[0] > dense.shape[-1] else dense

    def adjoint(self, y: Tensor) -> Tensor:
        """[A; G; I]' y."""
        dense = self.C.shape[-2]
        product = times(y[:, :dense], self.C)
        return product + y[:, dense:] if y.shape[-1] > dense else product

    def solve(self, rho: Tensor, rhs: Tensor) -> Tensor:
        """The system of one step."""
        inside = times(rhs, self.basis) / (1 - self.share + rho * self.share)
        return times(inside, self.basis.mT)

    def unscaled(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``x, y, z, z_lb, z_ub`` in the user's units and signs."""
        k, m, below, above = self.sizes
        x, y = self.column * x, self.row * y
        bounds = y[:, k + m :]
        none = bounds.new_zeros(bounds.shape[0], 0)
        z_lb = (-bounds).clamp(min=0) if below else none
        z_ub = bounds.clamp(min=0) if above else none
        return x, y[:, :k], y[:, k : k + m].clamp(min=0), z_lb, z_ub

    def scaled(self, x: Tensor, z: Tensor, z_lb: Tensor, z_ub: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of it, with multipliers of equalities zero."""
        k, _, below, above = self.sizes
        parts = [z.new_zeros(z.shape[0], k), z]
        if below or above:
            parts.append((z_ub if above else 0.0) - (z_lb if below else torch.zeros_like(x)))
        return x / self.column, torch.cat(parts, -1) / self.row


def times(x: Tensor, matrix: Tensor) -> Tensor:
    """``x' M`` for each row of ``x (B, a)``; one product of matrices where ``M (1 or B, a, b)`` is shared."""
    if matrix.shape[0] == 1:
        return x @ matrix[0]
    return (x.unsqueeze(-2) @ matrix).squeeze(-2)


def split(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor, lb: Tensor, ub: Tensor) -> Splitting:
    """Scale and factor a program in float64; see :class:`Splitting`."""
    matrices = Q, G, A
    if all(matrix.stride(0) == 0 or matrix.numel() == 0 for matrix in matrices):
        Q, shared_G, A = (matrix[:1] for matrix in matrices)
    else:
        shared_G = G
    Q, C = symmetric_part(Q), torch.cat([A, shared_G], -2)
    column, row = equilibrate(Q, C)
    Q, C = column.unsqueeze(-1) * Q * column.unsqueeze(-2), row.unsqueeze(-1) * C * column.unsqueeze(-2)
    n, k = p.shape[-1], b.shape[-1]
    lower, upper = [b, torch.full_like(h, -torch.inf)], [b, h]
    weight = torch.ones(C.shape[-2], dtype=p.dtype, device=p.device)
    weight[:k] = EQUALITY
    gram = C.mT @ (weight.unsqueeze(-1) * C)
    identity = torch.eye(n, dtype=p.dtype, device=p.device)
    if lb.shape[-1] or ub.shape[-1]:
        lower.append(lb if lb.shape[-1] else torch.full_like(p, -torch.inf))
        upper.append(ub if ub.shape[-1] else torch.full_like(p, torch.inf))
        weight, gram = torch.cat([weight, p.new_ones(n)]), gram + identity
        row = torch.cat([row, 1 / column], -1)
    factor = torch.linalg.cholesky_ex(Q + SIGMA * identity + gram)[0]
    left = torch.linalg.solve_triangular(factor, gram, upper=False)
    middle = torch.linalg.solve_triangular(factor, left.mT, upper=False)
    share, vectors = torch.linalg.eigh(0.5 * (middle + middle.mT))
    return Splitting(
        Q=Q,
        p=column * p,
        C=C,
        lower=row * torch.cat(lower, -1),
        upper=row * torch.cat(upper, -1),
        weight=weight,
        column=column,
        row=row,
        basis=torch.linalg.solve_triangular(factor.mT, vectors, upper=True),
        share=share.clamp(0, 1),
        G=G,
        h=h,
        sizes=(k, h.shape[-1], lb.shape[-1], ub.shape[-1]),
    )
