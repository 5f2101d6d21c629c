"""The last few vectors of an iteration, per sample, in a buffer of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor

from .._base.numeric import matvec
from ..linear_solve.dense import may_record


def empty(like: Tensor, size: int) -> Tensor:
    """``(*batch, size, N)`` zeros for vectors like ``(*batch, N)``; a zero vector takes part in nothing."""
    return like.new_zeros(*like.shape[:-1], size, like.shape[-1])


def newest(count: Tensor, size: int) -> Tensor:
    """``(*batch, size)`` bool: where the vector number `count` goes; it replaces the oldest one."""
    return torch.arange(size, device=count.device) == (count % size)[..., None]


def put(buffer: Tensor, slot: Tensor, vector: Tensor) -> Tensor:
    """The buffer ``(*batch, size, N)`` with `vector` at the slot; changed in place where nothing can tell.

    That includes samples that have stopped, whose memory nobody reads any more.
    """
    if may_record(buffer, vector):
        return torch.where(slot[..., None], vector[..., None, :], buffer)
    buffer[slot] = vector
    return buffer


def combine(buffer: Tensor, weights: Tensor) -> Tensor:
    """``(*batch, N)``: the sum of the vectors times weights ``(*batch, size)``."""
    return (weights[..., None, :] @ buffer).squeeze(-2)


def products(buffer: Tensor, vector: Tensor) -> Tensor:
    """``(*batch, size)``: inner products of the vectors with another."""
    return matvec(buffer, vector)
