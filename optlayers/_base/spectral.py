"""The part of a symmetric matrix on some of its eigenvectors, with derivatives that repeated eigenvalues do not spoil.

The derivative of an eigenvector divides by differences of eigenvalues, and so does that of torch's ``eigh``. The part
on an invariant subspace needs the subspace alone, the graph of a matrix ``W`` that solves a Riccati equation (PROJ-3)
in which only differences between kept and dropped eigenvalues divide.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Derivatives up to this order are exact; those of a higher order are not.
ORDER = 3


class InvariantSubspace:
    """The span of some eigenvectors of symmetric matrices X, as a differentiable function of X.

    Args:
        X: ``(*, n, n)`` symmetric.
        values, vectors: constants ``(*, n)`` and ``(*, n, n)``, what ``eigh`` gives for the values of X.
        keep: ``(*, n)`` bool; equal eigenvalues are kept or dropped together.

    References: Stewart, "Error and perturbation bounds for subspaces associated with certain eigenvalue problems"
    (1973).
    """

    def __init__(self, X: Tensor, values: Tensor, vectors: Tensor, keep: Tensor):
        rotated = vectors.mT @ X @ vectors
        D = rotated - rotated.detach()
        across = ~keep.unsqueeze(-1) & keep.unsqueeze(-2)
        gap = values.unsqueeze(-2) - values.unsqueeze(-1)
        weight = torch.where(across, 1 / torch.where(across, gap, 1.0), 0.0)
        W = weight * D  # (PROJ-3), to first order
        for _ in range(ORDER - 1):
            change = D + D @ W
            W = weight * (change - W @ change)
        self.vectors = vectors
        self.kept = torch.diag_embed(keep.to(X.dtype))
        self.graph = self.kept + W
        self.gram_inverse = self.kept - W.mT @ W  # of I + W'W, to third order
        self.matrix = self.kept @ (torch.diag_embed(values) + D) @ self.graph  # X graph = graph matrix

    def trace(self) -> Tensor:
        """The sum of the eigenvalues kept, ``(*)``."""
        return self.matrix.diagonal(dim1=-2, dim2=-1).sum(-1)

    def part(self, shift: Tensor | float = 0.0) -> Tensor:
        """``P (X - shift I)`` with the projector P onto the subspace (PROJ-4); a number or ``(*, 1, 1)``."""
        # Shifted first: small differences from the shift are then exact, however large W is.
        matrix = self.graph @ (self.matrix - shift * self.kept) @ self.gram_inverse @ self.graph.mT
        matrix = self.vectors @ matrix @ self.vectors.mT
        return (matrix + matrix.mT) / 2


def eigenpairs(X: Tensor) -> tuple[Tensor, Tensor]:
    """``eigh`` of symmetric matrices as constants; a matrix that is not finite, which would raise, counts as zero."""
    X = X.detach()
    finite = torch.isfinite(X).all(-1, keepdim=True).all(-2, keepdim=True)
    pairs = torch.linalg.eigh(torch.where(finite, X, 0.0))
    return pairs.eigenvalues, pairs.eigenvectors


def dilation(X: Tensor) -> Tensor:
    """The symmetric ``[[0, X], [X', 0]]``: its eigenvalues are the singular values of X, with both signs, and zeros."""
    rows, columns = X.shape[-2:]
    pad = torch.nn.functional.pad
    return pad(X, (rows, 0, 0, columns)) + pad(X.mT, (0, columns, rows, 0))
