"""Small numerical functions: with derivatives that are finite where the plain formula gives NaN, or faster than it."""

from __future__ import annotations

import torch
from torch import Tensor


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last dimension, kept, ``(*, 1)``: no overflow, and a derivative of zero at zero."""
    if x.shape[-1] == 0:
        return x.sum(-1, keepdim=True)
    largest = x.detach().abs().amax(-1, keepdim=True)
    usable = torch.isfinite(largest) & (largest > 0)
    scale = torch.where(usable, largest, 1.0)
    scaled = torch.where(largest == 0, 1.0, x / scale)
    length = scale * (scaled * scaled).sum(-1, keepdim=True).sqrt()
    return torch.where(largest == 0, 0.0, length)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the last dimension, kept: ``(*, 1)``."""
    return (a * b).sum(-1, keepdim=True)


def matvec(A: Tensor, x: Tensor) -> Tensor:
    """``A x`` for ``(*, m, n)`` and ``(*, n)``; leading dimensions broadcast."""
    # As a row times the transpose: torch takes 4 to 10 times as long for a batch of matrices times a column.
    return (x.unsqueeze(-2) @ A.mT).squeeze(-2)
