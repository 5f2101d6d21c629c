"""Step sizes of first-order methods, per sample: a first guess, and when rounding makes a test of decrease empty."""

from __future__ import annotations

import torch
from torch import Tensor

from .iterative import Flat, inner
from .jacobian import value_and_gradient

PROBE = 1e-2  # length of the move that the curvature is measured on, relative to 1 + ||x||
SLACK = 10  # rounding errors of a value that a comparison forgives


def guess(fn: Flat, x: Tensor, gradient: Tensor) -> Tensor:
    """(*batch, 1): the reciprocal of the curvature along the gradient; one where there is none."""
    length = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    reach = PROBE * (1 + torch.linalg.vector_norm(x, dim=-1, keepdim=True))
    move = -reach * gradient / torch.where(length > 0, length, 1.0)
    change = value_and_gradient(fn, x + move)[1] - gradient
    curvature = inner(move, change) / reach.square()
    usable = (curvature > 0) & (curvature < torch.inf)  # false for NaN, outside of the domain
    return torch.where(usable, 1 / torch.where(usable, curvature, 1.0), 1.0)


def rounding(value: Tensor) -> Tensor:
    """What two values near `value` may differ by for rounding alone."""
    return SLACK * torch.finfo(value.dtype).eps * value.abs()
