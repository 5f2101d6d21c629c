"""The sparse matrices of a cone program's linear systems, put together by an index that is found once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .._base.pattern import Pattern
from ..linear_solve.sparse import SaddleFactor
from ..solvers.conic import Cones
from .cone_blocks import groups
from .cone_spectrum import Spectrum

SCALING_PASSES = 5


class Assembly:
    """``K`` of (CONE-6) in compressed columns, from the values of ``P`` and ``A`` and the spectrum of the projection.

    An entry of ``C`` is a sum over the rows ``i`` of a block, ``S_p U_ip w_i A_ij``: `entry`, `row`, `coordinate` and
    `vector` say which ``A_ij``, ``w_i``, ``S_p`` and ``U_ip`` make a term.
    """

    def __init__(self, cones: Cones, on_P: Pattern, on_A: Pattern):
        m, n = on_A.shape
        self.n, self.size = n, n + m
        place, block = np.zeros(m, np.int64), np.zeros(m, np.int64)  # of a row: first coordinate of its block, and size
        start = 0
        vectors = np.full(m, -1)  # of a row: where its row of U starts, -1 where U is the identity
        offset = 0
        for group in groups(cones):
            count, size = group.index.shape
            unit = group.kind in ("zero", "nonneg")
            if unit:
                count, size = group.index.size, 1
            rows = group.index.ravel()
            place[rows] = start + np.repeat(np.arange(count) * size, size)
            block[rows] = size
            if not unit:
                vectors[rows] = offset + np.arange(count * size) * size
                offset += count * size * size
            start += count * size
        width = block[on_A.rows]
        self.entry = np.repeat(np.arange(len(on_A.rows)), width)
        number = np.arange(len(self.entry)) - np.repeat(np.cumsum(width) - width, width)  # within its block
        self.row = on_A.rows[self.entry]
        self.coordinate = place[self.row] + number
        self.vector = np.where(vectors[self.row] < 0, -1, vectors[self.row] + number)

        p, c, diagonal = (on_P.rows, on_P.cols), (n + self.coordinate, on_A.cols[self.entry]), np.arange(self.size)
        rows = np.concatenate([p[0], p[1], c[0], c[1], diagonal])
        cols = np.concatenate([p[1], p[0], c[1], c[0], diagonal])
        places, self.slot = np.unique(cols * self.size + rows, return_inverse=True)
        self.cols, self.indices = np.divmod(places, self.size)
        self.indptr = np.searchsorted(self.cols, np.arange(self.size + 1))

    def factor(self, spectrum: Spectrum, root: Tensor, P: Tensor, A: Tensor, w: Tensor) -> FactoredBatch:
        """Put together and factor the matrices of a batch; ``P`` and ``A`` may be shared by it."""
        flat = [
            vectors.expand(len(w), *vectors.shape[1:]).flatten(1)
            for _, vectors in spectrum.blocks
            if vectors is not None
        ]
        vectors = torch.cat([*flat, root.new_ones(len(w), 1)], 1)  # the last one for rows on which U is the identity
        arrays = [tensor.numpy() for tensor in (P, A, w, root, spectrum.lam, vectors)]
        factors = []
        for sample in range(len(w)):
            factors.append(self._sample(*(array[sample if len(array) > 1 else 0] for array in arrays)))
        return FactoredBatch(factors)

    def _sample(
        self, P: np.ndarray, A: np.ndarray, w: np.ndarray, root: np.ndarray, lam: np.ndarray, vectors: np.ndarray
    ) -> SaddleFactor:
        C = A[self.entry] * w[self.row] * root[self.coordinate] * vectors[self.vector]
        terms = np.concatenate([0.5 * P, 0.5 * P, C, C, np.zeros(self.n), -lam])
        data = np.bincount(self.slot, terms, len(self.indices))
        scale = np.ones(self.size)
        for _ in range(SCALING_PASSES):
            norm = np.maximum.reduceat(np.abs(data) * scale[self.indices], self.indptr[:-1]) * scale
            scale /= np.sqrt(np.where(norm > 0, norm, 1.0))
        scale = np.exp2(np.round(np.log2(scale)))
        data *= scale[self.indices] * scale[self.cols]
        matrix = sp.csc_array((data, self.indices, self.indptr), shape=(self.size, self.size))
        return SaddleFactor.of_scaled(matrix, self.n, scale)


class FactoredBatch:
    """A factorization a sample."""

    def __init__(self, factors: Sequence[SaddleFactor]):
        self.factors = factors

    def solve(self, rhs: Tensor) -> tuple[Tensor, Tensor]:
        """``K u = rhs (B, n + m)``: ``u``, and its relative residual ``(B)``."""
        found = [factor.solve(r) for factor, r in zip(self.factors, rhs.numpy(), strict=True)]
        u = np.array([u for u, _ in found]).reshape(rhs.shape)
        return torch.from_numpy(u), rhs.new_tensor([error for _, error in found])
