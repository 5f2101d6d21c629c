"""The limited-memory inverse Hessian of BFGS, per sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .iterative import inner
from .memory import empty


class Pairs(NamedTuple):
    """Steps and changes of the gradient, newest last; what does not belong to any step is zero."""

    moves: Tensor  # (*batch, memory, N)
    changes: Tensor  # (*batch, memory, N)
    scale: Tensor  # (*batch, 1): the inverse Hessian before any pair, times the identity


def no_pairs(x: Tensor, memory: int, scale: Tensor) -> Pairs:
    """No memory."""
    return Pairs(empty(x, memory), empty(x, memory), scale)


def remember(pairs: Pairs, move: Tensor, change: Tensor) -> Pairs:
    """With one more pair, unless the curvature along it is not clearly positive."""
    curvature = inner(move, change)
    eps = torch.finfo(move.dtype).eps
    lengths = torch.linalg.vector_norm(move, dim=-1) * torch.linalg.vector_norm(change, dim=-1)
    good = curvature > eps * lengths[..., None]

    def append(buffer: Tensor, vector: Tensor) -> Tensor:
        return torch.where(good[..., None], torch.cat([buffer[..., 1:, :], vector[..., None, :]], -2), buffer)

    scale = curvature / torch.where(good, inner(change, change), 1.0)
    return Pairs(append(pairs.moves, move), append(pairs.changes, change), torch.where(good, scale, pairs.scale))


def apply_inverse(pairs: Pairs, gradient: Tensor, free: Tensor | None = None) -> Tensor:
    """``H gradient`` by the two-loop recursion; with `free`, in the space of those variables alone."""
    moves, changes = pairs.moves, pairs.changes
    if free is not None:
        moves, changes = torch.where(free[..., None, :], moves, 0.0), torch.where(free[..., None, :], changes, 0.0)
        gradient = torch.where(free, gradient, 0.0)
    curvature = (moves * changes).sum(-1)
    eps = torch.finfo(gradient.dtype).eps
    lengths = torch.linalg.vector_norm(moves, dim=-1) * torch.linalg.vector_norm(changes, dim=-1)
    good = curvature > eps * lengths
    inverse = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)  # an empty slot takes part in nothing
    weights = []
    result = gradient
    for i in reversed(range(moves.shape[-2])):
        weight = inverse[..., i, None] * inner(moves[..., i, :], result)
        result = result - weight * changes[..., i, :]
        weights.append(weight)
    result = pairs.scale * result
    for i, weight in enumerate(reversed(weights)):
        back = inverse[..., i, None] * inner(changes[..., i, :], result)
        result = result + (weight - back) * moves[..., i, :]
    return result
