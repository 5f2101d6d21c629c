"""Sparse matrices as a fixed pattern and a dense tensor of values, so that derivatives are those of the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

SparseArray = Any  # of scipy, whose type stubs do not follow stacking and slicing
Matrix = Tensor | sp.spmatrix | sp.sparray


class Pattern:
    """Where a matrix may be nonzero: entry ``i`` of its values ``(B, nnz)`` sits at ``(rows[i], cols[i])``."""

    def __init__(self, rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]):
        self.rows, self.cols, self.shape = rows, cols, shape

    def mv(self, values: Tensor, x: Tensor) -> Tensor:
        """``M x`` for ``x (B, columns)``."""
        terms = values * x[..., torch.from_numpy(self.cols)]
        total = terms.new_zeros(*terms.shape[:-1], self.shape[0])
        return total.index_add(-1, torch.from_numpy(self.rows), terms)

    def transposed(self) -> Pattern:
        """The same values as the transposed matrix."""
        return Pattern(self.cols, self.rows, (self.shape[1], self.shape[0]))

    def matrix(self, values: np.ndarray) -> SparseArray:
        """One sample as a scipy matrix."""
        return sp.csr_array((values, (self.rows, self.cols)), shape=self.shape)


def is_sparse(matrix: object) -> bool:
    """Whether `matrix` is sparse, in torch or in scipy."""
    if isinstance(matrix, Tensor):
        return matrix.layout != torch.strided
    return matrix is not None and sp.issparse(matrix)


def read(function: str, name: str, matrix: Matrix, like: Tensor) -> tuple[Pattern, Tensor]:
    """The pattern of a matrix and its values ``(*, nnz)``, differentiable; a scipy matrix is a constant.

    Raises:
        TypeError: a layout other than strided, CSR and CSC.
        ValueError: a batch whose samples have different patterns.
    """
    if not isinstance(matrix, Tensor):
        coo: SparseArray = sp.coo_array(matrix)
        rows, cols = coo.row.astype(np.int64), coo.col.astype(np.int64)
        return Pattern(rows, cols, coo.shape), torch.as_tensor(coo.data).to(like)
    shape = (int(matrix.shape[-2]), int(matrix.shape[-1]))
    if matrix.layout == torch.strided:
        rows, cols = np.indices(shape).reshape(2, -1)
        return Pattern(rows, cols, shape), matrix.flatten(-2)
    if matrix.layout not in (torch.sparse_csr, torch.sparse_csc):
        raise TypeError(
            f"{function}: {name} has layout {matrix.layout}; expected torch.sparse_csr, torch.sparse_csc or a dense "
            f"tensor. Convert it with {name}.to_sparse_csr()."
        )
    starts, inner = _indices(matrix)
    starts, inner = (_common(function, name, index) for index in (starts, inner))
    outer = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    rows, cols = (outer, inner) if matrix.layout == torch.sparse_csr else (inner, outer)
    return Pattern(rows, cols, shape), _Values.apply(matrix) if matrix.requires_grad else matrix.values()


def _indices(matrix: Tensor) -> tuple[Tensor, Tensor]:
    if matrix.layout == torch.sparse_csr:
        return matrix.crow_indices(), matrix.col_indices()
    return matrix.ccol_indices(), matrix.row_indices()


def _common(function: str, name: str, index: Tensor) -> np.ndarray:
    """The index array that all samples of a batch share."""
    flat = index.reshape(index.shape[:-1].numel(), index.shape[-1]).long().numpy()
    if len(flat) == 0:
        return np.zeros(index.shape[-1], np.int64)
    if not (flat == flat[0]).all():
        raise ValueError(
            f"{function}: the samples of {name} have different sparsity patterns; expected one pattern for the batch. "
            f"Store the union of the patterns, with explicit zeros."
        )
    return flat[0]


class _Values(torch.autograd.Function):
    """``matrix.values()``; unlike that of torch, its gradient, on the same pattern, can be differentiated again."""

    @staticmethod
    def forward(matrix):
        return matrix.values().clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        matrix = inputs[0].detach()
        ctx.pattern = (*_indices(matrix), matrix.shape, matrix.layout)

    @staticmethod
    def backward(ctx, cotangent):
        return _FromValues.apply(cotangent, ctx.pattern)


class _FromValues(torch.autograd.Function):
    """The sparse tensor with these values."""

    @staticmethod
    def forward(values, pattern):
        starts, inner, shape, layout = pattern
        return torch.sparse_compressed_tensor(starts, inner, values, shape, layout=layout, check_invariants=False)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, cotangent):
        return _Values.apply(cotangent), None
