"""TorchOpt's hooks on gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .base import EmptyState, GradientTransformation

__all__ = ["nan_to_num_hook", "register_hook", "zero_nan_hook"]


def zero_nan_hook(g: Tensor) -> Tensor:
    """NaN replaced by zero."""
    return g.nan_to_num(nan=0.0)


def nan_to_num_hook(
    nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Callable[[Tensor], Tensor]:
    """A hook that replaces NaN and infinities."""
    return lambda g: g.nan_to_num(nan=nan, posinf=posinf, neginf=neginf)


def register_hook(hook: Callable[[Tensor], Tensor | None]) -> GradientTransformation:
    """Leave the updates as they are, and let `hook` see, and perhaps replace, the derivative with respect to them."""

    def update(updates: list[Tensor], state: Any, *, params: Any = None, inplace: bool = True):
        for value in updates:
            if value.requires_grad:  # where nothing is recorded there is no derivative to see
                value.register_hook(hook)
        return updates, state

    return GradientTransformation(lambda params: EmptyState(), update)
