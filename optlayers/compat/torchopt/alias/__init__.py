"""TorchOpt's functional optimizers: its argument order and defaults on the functions of :mod:`optlayers.optim`.

`moment_requires_grad` and `use_accelerated_op` are accepted without effect: states take part in derivatives by
themselves, and the fast kernel is chosen wherever it is exact.
"""

from __future__ import annotations

from .... import optim
from ....optim.aliases import Betas, Mask, Rate
from ....optim.lists import Scalar
from ....optim.scaling import negate
from ..base import GradientTransformation, adapt
from . import utils

__all__ = ["adadelta", "adagrad", "adam", "adamax", "adamw", "radam", "rmsprop", "sgd", "utils"]


def adam(
    lr: Rate = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    *,
    eps_root: Scalar = 0.0,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.adam`."""
    return adapt(optim.adam(lr, betas, eps, weight_decay, maximize=maximize, eps_root=eps_root))


def adamw(
    lr: Rate = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    *,
    eps_root: Scalar = 0.0,
    mask: Mask | None = None,
    moment_requires_grad: bool = False,
    maximize: bool = False,
    use_accelerated_op: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.adamw`."""
    return adapt(optim.adamw(lr, betas, eps, weight_decay, maximize=maximize, eps_root=eps_root, mask=mask))


def adamax(
    lr: Rate = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.adamax`."""
    return adapt(optim.adamax(lr, betas, eps, weight_decay))


def adadelta(
    lr: Rate = 1e-3,
    rho: Scalar = 0.9,
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.adadelta`."""
    return adapt(optim.adadelta(lr, rho, eps, weight_decay))


def radam(
    lr: Rate = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    *,
    moment_requires_grad: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.radam`."""
    return adapt(optim.radam(lr, betas, eps, weight_decay))


def adagrad(
    lr: Rate = 1e-2,
    lr_decay: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: Scalar = 1e-10,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.adagrad`."""
    return adapt(optim.adagrad(lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize))


def rmsprop(
    lr: Rate = 1e-2,
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum: Scalar = 0.0,
    centered: bool = False,
    *,
    initial_scale: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.rmsprop`, with a start of the squares and Nesterov's momentum."""
    plain = initial_scale == 0.0 and not nesterov
    if plain:
        return adapt(optim.rmsprop(lr, alpha, eps, weight_decay, momentum, centered, maximize))
    if nesterov and isinstance(momentum, (int, float)) and momentum <= 0:
        raise ValueError(f"rmsprop: nesterov needs momentum; got {momentum}.")
    return adapt(
        optim.chain(
            negate(maximize),
            optim.add_decayed_weights(weight_decay),
            optim.scale_by_rms(alpha, eps, centered, initial_scale),
            optim.trace(momentum, nesterov=nesterov),
            optim.scale_by_learning_rate(lr),
        )
    )


def sgd(
    lr: Rate,
    momentum: Scalar = 0.0,
    dampening: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    nesterov: bool = False,
    *,
    moment_requires_grad: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    """:func:`optlayers.optim.sgd`."""
    return adapt(optim.sgd(lr, momentum, dampening, weight_decay, nesterov, maximize))
