"""The compiled kernels: loads the extensions if it can, and says why if it cannot; without them the reference runs."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch  # first: the kernels then share its OpenMP runtime

__all__ = ["available", "cuda", "why_not"]

_C: Any = None
try:
    _C = import_module("._C", __name__)
except ImportError as error:
    _reason = f"the extension could not be loaded ({error})"
else:
    _reason = None


@cache
def cuda() -> tuple[Any, str | None]:
    """The module of CUDA kernels, or None and why there is none; loaded when first asked for."""
    if _C is None:
        return None, _reason
    if _C.cuda_why_not():
        return None, _C.cuda_why_not()
    try:
        module = import_module("._cuda", __name__)
    except ImportError as error:
        return None, f"the module of CUDA kernels could not be loaded ({error})"
    if not module.versions()[1]:
        return None, "there is no CUDA driver"
    try:
        module.device_count()
    except RuntimeError as error:  # a driver too old for the runtime linked in, or no device
        return None, str(error)
    return module, None


@cache
def _cuda_why_not(index: int) -> str | None:
    module, reason = cuda()
    if module is None:
        return reason
    if index >= module.device_count():
        return f"there are {module.device_count()} CUDA devices"
    return module.describe(index)[-1] or None


def why_not(device: torch.device | str = "cpu") -> str | None:
    """Why there are no native kernels on `device`, or None if there are."""
    device = torch.device(device)
    if device.type == "cuda":
        return _cuda_why_not(device.index or 0)
    return _reason if device.type == "cpu" else f"there are none for devices of type {device.type!r}"


def available(device: torch.device | str = "cpu") -> bool:
    """Whether native kernels run on `device`; where not, the same ops run in plain torch."""
    return why_not(device) is None
