"""The Jacobian of a cone program's residual, factored: a symmetric saddle-point system that is never worse scaled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .._base.pattern import Pattern, SparseArray
from ..linear_solve.saddle import DenseSaddle
from ..linear_solve.sparse import SaddleFactor, equilibration
from .cone_blocks import Spectrum
from .cone_data import Full, Structure


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
            self.factor = _SparseBatch(structure, self.spectrum, self.root, P, A, w)

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


class _SparseBatch:
    """A sparse factorization a sample."""

    def __init__(self, structure: Structure, spectrum: Spectrum, root: Tensor, P: Tensor, A: Tensor, w: Tensor):
        arrays = [tensor.numpy() for tensor in (P, A, w, root, spectrum.lam)]
        self.factors = []
        for sample in range(len(w)):
            values_P, values_A, unit, scale, lam = (array[sample if len(array) > 1 else 0] for array in arrays)
            Q: SparseArray = structure.on_P.matrix(values_P)
            Q = 0.5 * (Q + Q.T)
            C = sp.diags_array(unit) @ structure.on_A.matrix(values_A)
            C = sp.diags_array(scale) @ (_basis(spectrum, sample).T @ C)
            self.factors.append(SaddleFactor(Q, sp.csr_array(C), equilibration(Q, C, lam), lam))

    def solve(self, rhs: Tensor) -> tuple[Tensor, Tensor]:
        found = [factor.solve(r) for factor, r in zip(self.factors, rhs.numpy(), strict=True)]
        u = np.array([u for u, _ in found]).reshape(rhs.shape)
        return torch.from_numpy(u), rhs.new_tensor([error for _, error in found])


def _basis(spectrum: Spectrum, sample: int) -> SparseArray:
    """``U`` of one sample: rows are those of the program, columns the coordinates."""
    rows, cols, values, start = [], [], [], 0
    for index, vectors in spectrum.blocks:
        place = index.numpy()
        column = start + np.arange(place.size).reshape(place.shape)
        start += place.size
        if vectors is None:
            rows.append(place.ravel())
            cols.append(column.ravel())
            values.append(np.ones(place.size))
        else:
            shape = (*place.shape, place.shape[1])
            rows.append(np.broadcast_to(place[:, :, None], shape).ravel())
            cols.append(np.broadcast_to(column[:, None, :], shape).ravel())
            values.append(vectors.expand(len(vectors), *shape)[sample].numpy().ravel())
    parts = [np.concatenate([part[:0], *parts]) for part, parts in ((np.zeros(0), values), (np.zeros(0, int), rows))]
    columns = np.concatenate([np.zeros(0, int), *cols])
    return sp.csr_array((parts[0], (parts[1], columns)), shape=(start, start))


def samples_of(tensors: Sequence[Tensor], chosen: Tensor) -> list[Tensor]:
    """The chosen samples of tensors with one batch dimension; what is shared stays so."""
    return [tensor if len(tensor) == 1 else tensor[chosen] for tensor in tensors]
