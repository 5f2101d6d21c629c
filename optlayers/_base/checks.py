"""Checks of what the user passes: every public ValueError is worded here."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def check_tensors(function: str, tensors: Mapping[str, Tensor | None]) -> tuple[torch.dtype, torch.device]:
    """Check that all given tensors are float32 or float64 tensors of one dtype on one device; return both.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes or devices differ, or a dtype is neither float32 nor float64.
    """
    first: str | None = None
    dtype, device = torch.float32, torch.device("cpu")
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{function}: {name} is a {type(tensor).__name__}; expected a torch.Tensor.")
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{function}: {name} has dtype {tensor.dtype}; expected torch.float32 or torch.float64. "
                f"Convert it with {name}.to(torch.float64)."
            )
        if first is None:
            first, dtype, device = name, tensor.dtype, tensor.device
        elif tensor.dtype != dtype:
            raise ValueError(
                f"{function}: {name} has dtype {tensor.dtype} but {first} has {dtype}; give both the same."
            )
        elif tensor.device != device:
            raise ValueError(
                f"{function}: {name} is on {tensor.device} but {first} is on {device}; give both the same."
            )
    return dtype, device


def check_shape(function: str, name: str, tensor: Tensor, expected: tuple[int | str, ...], because: str = "") -> None:
    """Check the trailing dimensions of `tensor`: an int must match, a letter stands for any size.

    Raises:
        ValueError: too few dimensions, or a size that does not match.
    """
    shape = tuple(tensor.shape)
    tail = shape[len(shape) - len(expected) :]
    if len(shape) >= len(expected) and all(
        isinstance(want, str) or got == want for got, want in zip(tail, expected, strict=True)
    ):
        return
    wanted = ", ".join(str(size) for size in expected)
    raise ValueError(f"{function}: {name} has shape {shape}; expected (*, {wanted}){because}.")


def broadcast_batch(function: str, tensors: Mapping[str, tuple[Tensor | None, int]]) -> torch.Size:
    """Broadcast the leading dimensions of named tensors, given with the number of trailing ones that are their own.

    Raises:
        ValueError: leading dimensions that do not broadcast, naming the two arguments.
    """
    batch = torch.Size()
    names: list[str] = []
    for name, (tensor, own) in tensors.items():
        if tensor is None:
            continue
        leading = tensor.shape[: tensor.dim() - own]
        try:
            batch = torch.broadcast_shapes(batch, leading)
        except RuntimeError:
            raise ValueError(
                f"{function}: {name} has leading (batch) dimensions {tuple(leading)}, which do not broadcast with "
                f"{tuple(batch)} of {', '.join(names)}."
            ) from None
        names.append(name)
    return batch
