r"""Learning rate schedules: functions of the number of steps taken before, ``n = 0, 1, ...``.

Each returns a 0-d float64 tensor, differentiable in every value that is given as a tensor, and takes `n` as a number
or as a tensor, so that schedules run under :func:`torch.vmap` and :func:`torch.compile`. After its last
step a schedule keeps its value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .lists import Scalar
from .scaling import Schedule


def constant(value: Scalar) -> Schedule:
    """``value`` at every step."""
    return lambda n: _value(value)


def exponential(value: Scalar, rate: Scalar, steps: int = 1, staircase: bool = False) -> Schedule:
    """``value * rate^(n / steps)``; with `staircase` the exponent is rounded down."""
    _check_steps("exponential", steps)

    def schedule(n: float | Tensor) -> Tensor:
        exponent = _value(n) / steps
        return _value(value) * _value(rate) ** (exponent.floor() if staircase else exponent)

    return schedule


def polynomial(value: Scalar, end: Scalar, power: float, steps: int) -> Schedule:
    """``end + (value - end) (1 - n / steps)^power``, and `end` after `steps`."""
    _check_steps("polynomial", steps)
    if power <= 0:
        raise ValueError(f"polynomial: power is {power}; expected a positive number.")
    return lambda n: _value(end) + (_value(value) - _value(end)) * (1 - _progress(n, steps)) ** power


def linear(value: Scalar, end: Scalar, steps: int) -> Schedule:
    """A line from `value` to `end` in `steps`."""
    return polynomial(value, end, 1.0, steps)


def cosine(value: Scalar, steps: int, end: Scalar = 0.0) -> Schedule:
    """Half a cosine from `value` to `end` in `steps`.

    References: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017).
    """
    _check_steps("cosine", steps)

    def schedule(n: float | Tensor) -> Tensor:
        weight = 0.5 * (1 + torch.cos(math.pi * _progress(n, steps)))
        return _value(end) + (_value(value) - _value(end)) * weight

    return schedule


def piecewise(values: Sequence[Scalar], boundaries: Sequence[int]) -> Schedule:
    """``values[i]`` from step ``boundaries[i - 1]`` on; one value more than boundaries."""
    return join([constant(value) for value in values], boundaries)


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """``schedules[i]``, counting its steps from zero, from step ``boundaries[i - 1]`` on.

    Raises:
        ValueError: boundaries that do not increase, or not one fewer than there are schedules.
    """
    if len(schedules) != len(boundaries) + 1 or list(boundaries) != sorted(set(boundaries)):
        raise ValueError(
            f"join: got {len(schedules)} schedules and the boundaries {list(boundaries)}; expected increasing "
            "boundaries, one fewer than schedules."
        )

    def schedule(n: float | Tensor) -> Tensor:
        count = _value(n)
        value = _value(schedules[0](count))
        for start, following in zip(boundaries, schedules[1:], strict=True):
            # Clamped: a schedule is not asked for steps before its first.
            value = torch.where(count >= start, _value(following((count - start).clamp_min(0.0))), value)
        return value

    return schedule


def warmup(steps: int, after: Schedule, start: Scalar = 0.0) -> Schedule:
    """A line from `start` to the first value of `after` in `steps`, then `after`."""
    _check_steps("warmup", steps)
    # What follows is asked at each step: its tensors may have changed by then, and a graph is used once.
    return join([lambda n: linear(start, after(0), steps)(n), after], [steps])


def one_cycle(peak: Scalar, steps: int, rise: float = 0.3, start: float = 25.0, end: float = 1e4) -> Schedule:
    """Cosines from ``peak / start`` up to `peak` at ``rise * steps``, then down to ``peak / (start * end)`` at `steps`.

    References: Smith and Topin, "Super-convergence" (2018).
    """
    _check_steps("one_cycle", steps)
    top = round(rise * steps)
    if not 0 < top < steps:
        raise ValueError(f"one_cycle: rise is {rise} of {steps} steps; expected at least one step up and one down.")
    return join(
        [
            lambda n: cosine(peak / start, top, peak)(n),
            lambda n: cosine(peak, steps - top, peak / (start * end))(n),
        ],
        [top],
    )


def _progress(n: float | Tensor, steps: int) -> Tensor:
    return (_value(n) / steps).clamp(0.0, 1.0)


def _value(value: Scalar) -> Tensor:
    if isinstance(value, Tensor):
        return value.double()
    return torch.full((), value, dtype=torch.float64)


def _check_steps(function: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{function}: steps is {steps}; expected at least 1.")
