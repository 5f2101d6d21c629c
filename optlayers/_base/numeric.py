"""Small numerical functions whose derivatives are finite where the plain formula gives NaN."""

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
    return (A @ x.unsqueeze(-1)).squeeze(-1)
