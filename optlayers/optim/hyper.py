"""Checks of hyper-parameters: numbers must lie in their range; tensors are not read, as that may wait for a device."""

from __future__ import annotations

import math

from torch import Tensor


def check_nonnegative(function: str, **values: object) -> None:
    """Raise ValueError for a negative or non-finite number, TypeError for what is no number, tensor or schedule."""
    for name, value in values.items():
        if isinstance(value, Tensor) or callable(value):
            continue
        if not isinstance(value, (int, float)):
            raise TypeError(f"{function}: {name} is a {type(value).__name__}; expected a number or a tensor.")
        if not 0 <= value < math.inf:  # comparisons only: torch.compile may have made the number symbolic
            raise ValueError(f"{function}: {name} is {value}; expected a finite number >= 0.")


def check_fractions(function: str, **values: object) -> None:
    """Raise ValueError for a number outside [0, 1)."""
    check_nonnegative(function, **values)
    for name, value in values.items():
        if isinstance(value, (int, float)) and not value < 1:
            raise ValueError(f"{function}: {name} is {value}; expected a number in [0, 1).")


def check_betas(function: str, betas: object, count: int = 2) -> None:
    """Raise ValueError if the decay rates are not `count` numbers in [0, 1), or tensors."""
    if not isinstance(betas, (tuple, list)) or len(betas) != count:
        raise ValueError(f"{function}: betas is {betas!r}; expected {count} numbers or tensors.")
    check_fractions(function, **{f"betas[{place}]": value for place, value in enumerate(betas)})


def is_zero(value: object) -> bool:
    """Whether an option is off. A tensor, whose derivative may be wanted, is always on."""
    return not isinstance(value, Tensor) and not callable(value) and value == 0
