"""The Jacobian of a cone program's residual, factored: a symmetric saddle-point system that is never worse scaled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._base.pattern import Pattern
from ..linear_solve.saddle import DenseSaddle
from .cone_data import Full, Structure
from .cone_spectrum import Spectrum


class ConeSystem:
    """Solves with the Jacobian of (CONE-3) and its transpose, at given points, for the values of a batch (CONE-6).

    Args:
        v: ``(B, m)`` where the projection is differentiated.
        P, A: values ``(B or 1, nnz)``.
        w: ``(B, m)`` units of the rows.
    """

    def __init__(self, structure: Structure, v: Tensor, P: Tensor, A: Tensor, w: Tensor):
        self.spectrum = Spectrum(structure.cones, v)
        lam = self.spectrum.lam
        self.root = (1 - lam).sqrt()
        self.on_A, self.A, self.w = structure.on_A, A, w
        if structure.dense:
            self.factor = _dense_factor(structure, self.spectrum, self.root, P, A, w)
        else:
            self.factor = structure.assembly.factor(self.spectrum, self.root, P, A, w)

    def solve(self, r1: Tensor, r2: Tensor, transpose: bool) -> tuple[Tensor, Tensor, Tensor]:
        """``J (dx, dv) = (r1, r2)``, or with ``J'``; the last is the relative residual of the inner system ``(B)``."""
        n = r1.shape[-1]
        rotated = self.root * self.spectrum.coordinates(r2)
        if transpose:  # (CONE-8)
            u, error = self.factor.solve(torch.cat([r1 - self._back(r2), -rotated], -1))
            return u[:, :n], r2 + self.spectrum.vector(self.root * u[:, n:]), error
        u, error = self.factor.solve(torch.cat([r1, rotated], -1))  # (CONE-7)
        dx = u[:, :n]
        image = self.w * self.on_A.mv(self.A, dx)
        return dx, r2 - image - self.spectrum.vector(self.root * u[:, n:]), error

    def derivative(self, r: Tensor) -> Tensor:
        """``D r`` for the derivative ``D`` of the projection."""
        return self.spectrum.vector(self.spectrum.lam * self.spectrum.coordinates(r))

    def _back(self, r: Tensor) -> Tensor:
        return self.on_A.transposed().mv(self.A, self.w * r)


def _dense_factor(
    structure: Structure, spectrum: Spectrum, root: Tensor, P: Tensor, A: Tensor, w: Tensor
) -> DenseSaddle:
    count = len(w)
    Q, C = _matrix(structure.on_P, P), _matrix(structure.on_A, A)
    Q = (0.5 * (Q + Q.mT)).expand(count, *Q.shape[1:])
    C = spectrum.coordinates(w.unsqueeze(-1) * C.expand(count, *C.shape[1:]))
    return DenseSaddle(Q, root.unsqueeze(-1) * C, spectrum.lam)


def _matrix(pattern: Pattern, values: Tensor) -> Tensor:
    if isinstance(pattern, Full):
        return pattern.dense(values)
    place = torch.from_numpy(pattern.rows * pattern.shape[1] + pattern.cols).to(values.device)
    flat = values.new_zeros(len(values), pattern.shape[0] * pattern.shape[1])
    return flat.index_add(1, place, values).unflatten(1, pattern.shape)


def samples_of(tensors: Sequence[Tensor], chosen: Tensor) -> list[Tensor]:
    """The chosen samples of tensors with one batch dimension; what is shared stays so."""
    return [tensor if len(tensor) == 1 else tensor[chosen] for tensor in tensors]
