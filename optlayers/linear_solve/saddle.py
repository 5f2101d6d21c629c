"""Dense symmetric saddle-point systems, a batch at a time, solved to rounding accuracy even where they are singular."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor

from .._base.numeric import matvec
from .._base.threads import one_thread

REGULARIZATION = 1e-8  # of the scaled matrix; refinement takes it out again
REFINEMENT_STEPS = 30
ACCURACY = 1e-9  # relative residual up to which refinement counts as converged


class DenseSaddle:
    r"""Factorizations of ``K = [[Q, C'], [C, -D]]``, with ``Q`` and the diagonal ``D`` positive semidefinite.

    The batched counterpart of :class:`~optlayers.linear_solve.sparse.SaddleFactor`, and the same argument: the null
    space of ``K`` consists of ``(v, 0)`` with ``Qv = Cv = 0`` and ``(0, w)`` with ``C'w = Dw = 0``, so that adding
    ``diag(r I, -r I)`` to the scaled matrix and refining on ``K`` ends at the solution of least norm, in scaled units.

    Args:
        Q: ``(B, n, n)`` float64.
        C: ``(B, m, n)``.
        D: ``(B, m)``.
    """

    def __init__(self, Q: Tensor, C: Tensor, D: Tensor):
        n = Q.shape[-1]
        K = torch.cat([torch.cat([Q, C.mT], -1), torch.cat([C, torch.diag_embed(-D)], -1)], -2)
        self.scale = _equilibration(K)
        self.matrix = K * self.scale.unsqueeze(-1) * self.scale.unsqueeze(-2)
        self.shift = torch.full_like(self.scale[:1], REGULARIZATION)
        self.shift[:, n:] = -REGULARIZATION
        with one_thread(K):
            self.lu, self.pivots, _ = torch.linalg.lu_factor_ex(self.matrix + torch.diag_embed(self.shift))

    def solve(self, rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Solve ``K u = rhs (B, n + m)``; return ``u`` and its relative residual ``(B)`` in scaled units.

        Where that is above 1e-9 the system is inconsistent and ``u`` its least-squares solution of least norm.
        """
        rhs = self.scale * rhs
        u, residual = self._refine(rhs, self._substitute)
        wrong = (_relative(residual, rhs) > ACCURACY).nonzero().squeeze(-1)
        if len(wrong):
            u[wrong] = self._at(wrong)._least_squares(rhs[wrong])
        return self.scale * u, _relative(rhs - self._apply(u), rhs)

    def _at(self, samples: Tensor) -> DenseSaddle:
        """The same for some of the samples."""
        some = copy(self)
        for name in ("scale", "matrix", "lu", "pivots"):
            setattr(some, name, getattr(self, name)[samples])
        return some

    def _least_squares(self, rhs: Tensor) -> Tensor:
        """The least-squares solution of least norm, for a scaled right-hand side."""
        _, outside = self._refine(rhs, self._regularized)
        u, _ = self._refine(rhs - outside, self._regularized)
        return u - self._refine(u, self._regularized)[1]

    def _apply(self, u: Tensor) -> Tensor:
        return matvec(self.matrix, u)

    def _substitute(self, rhs: Tensor) -> Tensor:
        return torch.linalg.lu_solve(self.lu, self.pivots, rhs.unsqueeze(-1)).squeeze(-1)

    def _regularized(self, rhs: Tensor) -> Tensor:
        """``(K + R)^-1 rhs``, refined: the factorization alone has errors of about rounding over r."""
        u = self._substitute(rhs)
        for _ in range(2):
            u = u + self._substitute(rhs - self._apply(u) - self.shift * u)
        return u

    def _refine(self, rhs: Tensor, solve: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Iterate ``u += (K + R)^-1 (rhs - K u)`` from zero until the residual settles; return both."""
        u, residual = torch.zeros_like(rhs), rhs
        last = torch.full_like(rhs[:, 0], torch.inf)
        enough = 1e-16 * _size(rhs)
        for _ in range(REFINEMENT_STEPS):
            step = solve(residual)
            image = self._apply(step)
            change = _size(image)
            going = change < last  # not so at rounding, nor for NaN
            u = torch.where(going.unsqueeze(-1), u + step, u)
            residual = torch.where(going.unsqueeze(-1), residual - image, residual)
            last = torch.where(going, change, 0.0)
            if not (last > enough).any():
                break
        return u, residual


def _equilibration(K: Tensor) -> Tensor:
    """Powers of two that bring the rows of the scaled matrix near max-norm one (Ruiz, 2001)."""
    size, scale = K.abs(), torch.ones_like(K[..., 0])
    for _ in range(4):
        norm = (size * scale.unsqueeze(-2)).amax(-1) * scale if size.shape[-1] else scale
        scale = scale / torch.where(norm > 0, norm, 1.0).sqrt()
    return scale.log2().round().exp2()


def _size(v: Tensor) -> Tensor:
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])


def _relative(residual: Tensor, rhs: Tensor) -> Tensor:
    size = _size(rhs)
    return torch.where(size > 0, _size(residual) / torch.where(size > 0, size, 1.0), 0.0)
