"""First derivatives of functions of the raveled unknown, per sample: samples are strangers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp

from .._base import tree
from .._base.tree import Tree
from ..linear_solve.dense import materialise

FlatFn = Callable[[Tensor], Tensor]  # of (*batch, N)


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


def gradient_of(objective: Callable[..., Tensor]) -> Callable[..., Tree]:
    """``gradient(x, *args)`` of an objective on trees, summed over everything it returns; differentiable again."""

    def gradient(x: Tree, *args: Tree) -> Tree:
        tensors, rebuild = tree.partition(x)
        value, pull = vjp(lambda *values: objective(rebuild(values), *args), *tensors)[:2]
        return rebuild(pull(torch.ones_like(value)))

    return gradient
