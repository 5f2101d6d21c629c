"""What the projections do with their arguments: checks, and parameters that are numbers or tensors."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from .._base.checks import broadcast_batch, check_shape, check_tensors

Number: TypeAlias = "float | Tensor"


def check_point(function: str, x: Tensor, shape: tuple[int | str, ...] = ("n",), **others: Number | None) -> None:
    """Check dtypes and devices of `x` and of the tensors among `others`, and the trailing dimensions of `x`."""
    tensors = {name: value for name, value in others.items() if not isinstance(value, int | float)}
    check_tensors(function, {"x": x, **tensors})
    check_shape(function, "x", x, shape)


def nonnegative(function: str, name: str, value: Number) -> Number:
    """A number that must not be negative; in a tensor, whose samples are strangers, a negative one becomes NaN.

    Raises:
        ValueError: a negative Python number.
    """
    if isinstance(value, Tensor):
        return torch.where(value >= 0, value, torch.nan)
    if not value >= 0:
        raise ValueError(f"{function}: {name} is {value}; expected a number that is not negative.")
    return value


def per_sample(function: str, name: str, value: Number, x: Tensor, own: int = 1) -> tuple[Tensor, Tensor]:
    """A parameter with one number a sample, shaped ``(*batch, 1)``, and `x` expanded to the batch of the two.

    `own` is the number of dimensions that a sample of `x` has, and of ones that the parameter is given.
    """
    if not isinstance(value, Tensor):
        return torch.full((1,) * own, value, dtype=x.dtype, device=x.device), x
    batch = broadcast_batch(function, {"x": (x, own), name: (value, 0)})
    if x.shape[: x.dim() - own] != batch:
        x = x.expand(*batch, *x.shape[x.dim() - own :])
    return value.reshape(value.shape + (1,) * own), x


def flat(tensor: Tensor, shape: tuple[int, ...], own: int = 1) -> Tensor:
    """`tensor` broadcast to `shape`, whose last `own` dimensions are a sample's, with one batch dimension."""
    split = len(shape) - own
    return tensor.expand(shape).reshape(math.prod(shape[:split]), *shape[split:])


def vectors(function: str, x: Tensor, **others: Number) -> list[Tensor]:
    """`x` and parameters with one number an entry, numbers among them made tensors, expanded to one batch.

    Raises:
        ValueError: a parameter without the last dimension of `x`, or leading dimensions that do not broadcast.
    """
    named = {"x": (x, 1)}
    for name, value in others.items():
        if not isinstance(value, Tensor):
            value = torch.full((1,), value, dtype=x.dtype, device=x.device).expand(x.shape[-1])
        check_shape(function, name, value, (x.shape[-1],), "because x has {} entries", x.shape[-1])
        named[name] = (value, 1)
    shape = (*broadcast_batch(function, named), x.shape[-1])
    return [tensor.expand(shape) for tensor, _ in named.values()]
