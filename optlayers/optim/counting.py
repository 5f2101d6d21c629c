"""The step counter of stateful transformations, and reading it as a number where that can be done."""

from __future__ import annotations

import torch
from torch import Tensor


def start() -> Tensor:
    """A counter at zero: on the CPU, like that of torch.optim, so that reading it does not wait for a device."""
    return torch.zeros((), dtype=torch.int64)


def read(value: Tensor) -> float | int | Tensor:
    """The number in a 0-d tensor; under vmap and torch.compile, where it cannot be read, a float64 tensor."""
    if torch.compiler.is_compiling():
        return value.double()
    try:
        return value.item()
    except RuntimeError:  # what vmap and fake tensors raise on data-dependent control flow
        return value.double()
