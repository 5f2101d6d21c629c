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
    first, dtype, device = "", None, None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{function}: {name} is a {type(tensor).__name__}; expected a torch.Tensor.")
        if dtype is None:
            first, dtype, device = name, tensor.dtype, tensor.device
            if dtype not in (torch.float32, torch.float64):
                raise ValueError(_unsupported(function, name, dtype))
        elif tensor.dtype != dtype:
            if tensor.dtype not in (torch.float32, torch.float64):
                raise ValueError(_unsupported(function, name, tensor.dtype))
            raise ValueError(
                f"{function}: {name} has dtype {tensor.dtype} but {first} has {dtype}; give both the same."
            )
        elif tensor.device != device:
            raise ValueError(
                f"{function}: {name} is on {tensor.device} but {first} is on {device}; give both the same."
            )
    return dtype or torch.get_default_dtype(), device or torch.device("cpu")


def _unsupported(function: str, name: str, dtype: torch.dtype) -> str:
    return (
        f"{function}: {name} has dtype {dtype}; expected torch.float32 or torch.float64. "
        f"Convert it with {name}.to(torch.float64)."
    )


def check_shape(
    function: str, name: str, tensor: Tensor, expected: tuple[int | str, ...], because: str = "", size: int = 0
) -> None:
    """Check the trailing dimensions of `tensor`: an int must match, a letter stands for any size.

    Raises:
        ValueError: too few dimensions, or a size that does not match, `because` of another argument's `size`.
    """
    shape = tensor.shape
    if len(shape) >= len(expected):
        offset = len(shape) - len(expected)
        for index, want in enumerate(expected):
            if shape[offset + index] != want and not isinstance(want, str):
                break
        else:
            return
    wanted = ", ".join(str(want) for want in expected)
    reason = f", {because.format(size)}" if because else ""
    raise ValueError(f"{function}: {name} has shape {tuple(shape)}; expected (*, {wanted}){reason}.")


def broadcast_batch(function: str, tensors: Mapping[str, tuple[Tensor, int]]) -> torch.Size:
    """Broadcast the leading dimensions of named tensors, given with the number of trailing ones that are their own.

    Raises:
        ValueError: leading dimensions that do not broadcast, naming the arguments.
    """
    batch = torch.Size()
    for name, (tensor, own) in tensors.items():
        leading = tensor.shape[: tensor.dim() - own]
        if not leading or leading == batch:
            continue
        try:
            batch = torch.broadcast_shapes(batch, leading) if batch else leading
        except RuntimeError:
            raise ValueError(
                f"{function}: {name} has leading (batch) dimensions {tuple(leading)}, which do not broadcast with "
                f"{tuple(batch)} of the arguments before it ({', '.join(tensors)})."
            ) from None
    return batch
