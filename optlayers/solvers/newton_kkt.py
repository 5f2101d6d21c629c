"""Newton's system of a primal-dual interior-point method, reduced to two Cholesky factorizations a sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._base.loop import surely_none
from .._base.numeric import matvec


@dataclass(frozen=True)
class Factor:
    """``D L L' D``, a Cholesky factorization of a matrix scaled to a unit diagonal, and the shift that it took."""

    lower: Tensor  # (B, n, n)
    scale: Tensor  # (B, n): 1 / D

    def solve(self, rhs: Tensor) -> Tensor:
        """``(B, n, r)``, or ``(B, n)``."""
        if rhs.ndim == 2:
            return self.solve(rhs.unsqueeze(-1)).squeeze(-1)
        scale = self.scale.unsqueeze(-1)
        return scale * torch.cholesky_solve(scale * rhs, self.lower)


def factor(matrix: Tensor) -> Factor:
    """Factor a symmetric matrix, shifted where it is not positive definite (IPC-5).

    The shift starts at rounding, which is all that a semidefinite matrix needs, and grows tenfold at a time: a
    positive definite matrix is what makes the step one of descent on a problem that is not convex where it stands.
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).abs()
    floor = torch.finfo(matrix.dtype).tiny ** 0.5
    scale = torch.where(diagonal > floor, diagonal, 1.0).rsqrt()
    scaled = scale.unsqueeze(-1) * matrix * scale.unsqueeze(-2)
    shift = torch.full_like(scale[..., :1], 4 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps)
    lower, info = torch.linalg.cholesky_ex(scaled + torch.diag_embed(shift.expand_as(scale)))
    for _ in range(16):
        bad = (info > 0).unsqueeze(-1)
        if surely_none(bad):
            break
        shift = torch.where(bad, 10 * shift, shift)
        lower, info = torch.linalg.cholesky_ex(scaled + torch.diag_embed(shift.expand_as(scale)))
    return Factor(torch.where((info > 0)[:, None, None], torch.nan, lower), scale)


@dataclass(frozen=True)
class NewtonKKT:
    """The system (IPC-3) with its inequalities eliminated (IPC-4); H, A, G and the weight of each inequality."""

    H: Tensor  # (B, n, n)
    A: Tensor  # (B, k, n)
    G: Tensor  # (B, m, n)
    weight: Tensor  # (B, m): z / s
    condensed: Tensor  # H + G' W G
    penalty: Tensor  # (B, 1, 1): of A'A, which is zero on the tangent space of the equalities
    inner: Factor
    schur: Factor | None

    @classmethod
    def build(cls, H: Tensor, A: Tensor, G: Tensor, s: Tensor, z: Tensor) -> NewtonKKT:
        """Condense and factor."""
        weight = z / s
        condensed = H + G.mT @ (weight.unsqueeze(-1) * G)
        if A.shape[-2] == 0:
            return cls(H, A, G, weight, condensed, H.new_zeros(()), factor(condensed), None)
        gram = A.mT @ A
        size = gram.flatten(1).abs().amax(-1)[:, None, None]
        penalty = condensed.flatten(1).abs().amax(-1)[:, None, None] / torch.where(size > 0, size, 1.0)
        inner = factor(condensed + penalty * gram)
        return cls(H, A, G, weight, condensed, penalty, inner, factor(A @ inner.solve(A.mT)))

    def solve(self, r_x: Tensor, r_h: Tensor, r_g: Tensor, r_c: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """The step ``(dx, ds, dy, dz)`` that takes the residuals to zero."""
        rhs = -r_x - matvec(self.G.mT, self.weight * r_g - r_c / s)
        dx, dy = self._reduced(rhs, -r_h)
        error_x = rhs - matvec(self.condensed, dx) - matvec(self.A.mT, dy)
        more_x, more_y = self._reduced(error_x, -r_h - matvec(self.A, dx))  # one step of iterative refinement
        dx, dy = dx + more_x, dy + more_y
        ds = -r_g - matvec(self.G, dx)
        dz = -(r_c + z * ds) / s
        return dx, ds, dy, dz

    def _reduced(self, rhs: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Solve ``[[M, A'], [A, 0]] (dx, dy) = (rhs, row)``, with ``M + penalty A'A`` in the place of M."""
        if self.schur is None:
            return self.inner.solve(rhs), row
        rhs = rhs + matvec(self.A.mT, self.penalty.squeeze(-1) * row)
        dy = self.schur.solve(matvec(self.A, self.inner.solve(rhs)) - row)
        return self.inner.solve(rhs - matvec(self.A.mT, dy)), dy
