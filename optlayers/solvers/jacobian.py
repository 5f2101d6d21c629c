"""First derivatives of functions of the raveled unknown, per sample: samples are strangers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vjp

from ..linear_solve.dense import materialise
from .iterative import FlatFn


def value_and_gradient(fn: FlatFn, x: Tensor) -> tuple[Tensor, Tensor]:
    """``fn(x) (*batch)`` and its gradient ``(*batch, N)``: that of the sum."""
    value, pull = vjp(fn, x)[:2]
    return value, pull(torch.ones_like(value))[0]


def jacobian(fn: FlatFn, x: Tensor) -> tuple[Tensor, Tensor]:
    """``fn(x) (*batch, M)`` and its Jacobian ``(*batch, M, N)``, by as many products as the smaller of its sides."""
    value, pull = vjp(fn, x)[:2]
    if value.shape[-1] <= x.shape[-1]:
        return value, materialise(lambda v: pull(v)[0], value).mT
    push = vjp(lambda v: pull(v)[0], torch.zeros_like(value))[1]
    return value, materialise(lambda v: push(v)[0], x)
