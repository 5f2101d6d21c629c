"""The compiled core: loads the extension if it can, and says why if it cannot; without it the reference runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch  # first: the kernels then share its OpenMP runtime

__all__ = ["available", "why_not"]

_C: Any = None
try:
    _C = import_module("._C", __name__)
except ImportError as error:
    _reason: str | None = f"the extension could not be loaded ({error})"
else:
    _reason = None


def available(device: torch.device | str = "cpu") -> bool:
    """Whether native kernels run on `device`; where not, the same ops run in plain torch."""
    return _C is not None and torch.device(device).type == "cpu"


def why_not() -> str | None:
    """Why there are no native kernels at all, or None if there are."""
    return _reason
