"""TorchOpt's schedules: its argument order on those of :mod:`optlayers.optim.schedules`."""

from __future__ import annotations

import torch
from torch import Tensor

from ...optim import schedules
from ...optim.lists import Scalar
from ...optim.scaling import Schedule

__all__ = ["exponential_decay", "linear_schedule", "polynomial_schedule"]


def exponential_decay(
    init_value: Scalar,
    decay_rate: Scalar,
    transition_begin: int = 0,
    transition_steps: int = 1,
    staircase: bool = False,
    end_value: Scalar | None = None,
) -> Schedule:
    """:func:`~optlayers.optim.schedules.exponential` from step `transition_begin` on, not beyond `end_value`."""
    if transition_steps <= 0 or (not isinstance(decay_rate, Tensor) and decay_rate == 0):
        return schedules.constant(init_value)
    decaying = _from(
        transition_begin, init_value, schedules.exponential(init_value, decay_rate, transition_steps, staircase)
    )
    if end_value is None:
        return decaying

    def bounded(n: float | Tensor) -> Tensor:
        value, end = torch.as_tensor(decaying(n)), torch.as_tensor(end_value, dtype=torch.float64)
        shrinking = torch.as_tensor(decay_rate) < 1
        return torch.where(shrinking, torch.maximum(value, end), torch.minimum(value, end))

    return bounded


def polynomial_schedule(
    init_value: Scalar, end_value: Scalar, power: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """:func:`~optlayers.optim.schedules.polynomial` from step `transition_begin` on."""
    if transition_steps <= 0:
        return schedules.constant(init_value)
    return _from(
        transition_begin, init_value, schedules.polynomial(init_value, end_value, power, transition_steps)
    )  # fmt: skip


def linear_schedule(
    init_value: Scalar, end_value: Scalar, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """:func:`~optlayers.optim.schedules.linear` from step `transition_begin` on."""
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def _from(begin: int, value: Scalar, schedule: Schedule) -> Schedule:
    return schedule if begin <= 0 else schedules.join([schedules.constant(value), schedule], [begin])
