"""A constant sparse matrix applied to a batch of vectors, differentiably, at any order, under every transform."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .pattern import SparseArray


class SparseMap:
    """``x (*batch, columns) -> M x (*batch, rows)`` for a scipy matrix ``M``.

    One product serves the whole batch. A matrix with at most one entry a row, which maps of problem data mostly are,
    is a gather.
    """

    def __init__(self, matrix: SparseArray):
        matrix = matrix.tocsr()
        matrix.sort_indices()
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        count = np.diff(matrix.indptr)
        self.rows = np.flatnonzero(count)  # those that are not zero
        self.gather: tuple[Tensor, Tensor, Tensor] | None = None
        self.matrix = self.transposed = None
        if (count <= 1).all():
            columns = torch.from_numpy(matrix.indices.astype(np.int64))
            self.gather = (columns, torch.from_numpy(matrix.data), torch.from_numpy(self.rows))
        else:
            self.matrix, self.transposed = matrix, matrix.T.tocsr()

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to float64 vectors."""
        if self.gather is None:
            return _Product.apply(self.matrix, self.transposed, x)
        columns, scale, rows = (part.to(x.device) for part in self.gather)
        values = x[..., columns] * scale
        if len(rows) == self.shape[0]:
            return values
        return values.new_zeros(*values.shape[:-1], self.shape[0]).index_copy(-1, rows, values)


class _Product(torch.autograd.Function):
    """``matrix @ x`` along the last dimension, on the CPU by scipy: torch's own sparse product is far slower there."""

    @staticmethod
    def forward(matrix, transposed, x):
        flat = x.reshape(-1, x.shape[-1])
        if x.device.type == "cpu":
            image = torch.from_numpy(np.ascontiguousarray((matrix @ flat.numpy().T).T))
        else:
            starts, columns, values = (
                torch.from_numpy(part).to(x.device) for part in (matrix.indptr, matrix.indices, matrix.data)
            )
            image = (torch.sparse_csr_tensor(starts, columns, values, matrix.shape) @ flat.T).T.contiguous()
        return image.reshape(*x.shape[:-1], matrix.shape[0])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.matrix, ctx.transposed, _ = inputs

    @staticmethod
    def backward(ctx, cotangent):
        return None, None, _Product.apply(ctx.transposed, ctx.matrix, cotangent)

    @staticmethod
    def jvp(ctx, _matrix, _transposed, tangent):
        return _Product.apply(ctx.matrix, ctx.transposed, tangent)

    @staticmethod
    def vmap(info, in_dims, matrix, transposed, x):
        return _Product.apply(matrix, transposed, x.movedim(in_dims[2], 0)), 0
