"""TorchOpt's transformations: its argument order and defaults on those of :mod:`optlayers.optim`.

`moment_requires_grad` is accepted without effect: states take part in derivatives by themselves.
"""

from __future__ import annotations

from ... import optim
from ...optim.aliases import Mask
from ...optim.lists import Scalar
from ...optim.scaling import Schedule
from .base import GradientTransformation, adapt

__all__ = [
    "add_decayed_weights", "masked", "nan_to_num", "scale", "scale_by_accelerated_adam", "scale_by_adadelta",
    "scale_by_adam", "scale_by_adamax", "scale_by_radam", "scale_by_rms", "scale_by_rss", "scale_by_schedule",
    "scale_by_stddev", "trace",
]  # fmt: skip


def trace(
    momentum: Scalar = 0.9, dampening: Scalar = 0.0, nesterov: bool = False, moment_requires_grad: bool = False
) -> GradientTransformation:
    """:func:`optlayers.optim.trace`."""
    return adapt(optim.trace(momentum, dampening, nesterov))


def scale(step_size: Scalar) -> GradientTransformation:
    """:func:`optlayers.optim.scale`."""
    return adapt(optim.scale(step_size))


def scale_by_schedule(step_size_fn: Schedule) -> GradientTransformation:
    """:func:`optlayers.optim.scale_by_schedule`."""
    return adapt(optim.scale_by_schedule(step_size_fn))


def add_decayed_weights(weight_decay: Scalar = 0.0, mask: Mask | None = None) -> GradientTransformation:
    """:func:`optlayers.optim.add_decayed_weights`."""
    return adapt(optim.add_decayed_weights(weight_decay, mask))


def masked(inner: optim.GradientTransformation, mask: Mask | None = None) -> GradientTransformation:
    """:func:`optlayers.optim.masked`; without a mask `inner` itself."""
    return adapt(inner if mask is None else optim.masked(inner, mask))


def scale_by_adam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.scale_by_adam`."""
    return adapt(optim.scale_by_adam(b1, b2, eps, eps_root))


scale_by_accelerated_adam = scale_by_adam  # kernels are chosen by what is to be done, not by name


def scale_by_adamax(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-6, moment_requires_grad: bool = False
) -> GradientTransformation:
    """:func:`optlayers.optim.scale_by_adamax`."""
    return adapt(optim.scale_by_adamax(b1, b2, eps))


def scale_by_adadelta(
    rho: Scalar = 0.9, eps: Scalar = 1e-6, moment_requires_grad: bool = False
) -> GradientTransformation:
    """:func:`optlayers.optim.scale_by_adadelta`."""
    return adapt(optim.scale_by_adadelta(rho, eps))


def scale_by_radam(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-6, moment_requires_grad: bool = False
) -> GradientTransformation:
    """:func:`optlayers.optim.scale_by_radam`."""
    return adapt(optim.scale_by_radam(b1, b2, eps))


def scale_by_rss(initial_accumulator_value: float = 0.0, eps: Scalar = 1e-10) -> GradientTransformation:
    """:func:`optlayers.optim.scale_by_rss`."""
    return adapt(optim.scale_by_rss(initial_accumulator_value, eps))


def scale_by_rms(alpha: Scalar = 0.9, eps: Scalar = 1e-8, initial_scale: float = 0.0) -> GradientTransformation:
    """:func:`optlayers.optim.scale_by_rms`."""
    return adapt(optim.scale_by_rms(alpha, eps, initial_scale=initial_scale))


def scale_by_stddev(alpha: Scalar = 0.9, eps: Scalar = 1e-8, initial_scale: float = 0.0) -> GradientTransformation:
    """:func:`optlayers.optim.scale_by_stddev`."""
    return adapt(optim.scale_by_stddev(alpha, eps, initial_scale))


def nan_to_num(nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> GradientTransformation:
    """:func:`optlayers.optim.nan_to_num`."""
    return adapt(optim.nan_to_num(nan, posinf, neginf))
