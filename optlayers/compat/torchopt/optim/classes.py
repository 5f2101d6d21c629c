"""TorchOpt's optimizers by name: its argument order and defaults."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ....optim.aliases import Betas, Mask, Rate
from ....optim.lists import Scalar
from .. import alias
from .base import Optimizer


class SGD(Optimizer):
    """:func:`optlayers.optim.sgd` as an optimizer."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Rate,
        momentum: Scalar = 0.0,
        weight_decay: Scalar = 0.0,
        dampening: Scalar = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ):
        super().__init__(params, alias.sgd(lr, momentum, dampening, weight_decay, nesterov, maximize=maximize))


class Adam(Optimizer):
    """:func:`optlayers.optim.adam` as an optimizer."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Scalar = 1e-8,
        weight_decay: Scalar = 0.0,
        *,
        eps_root: Scalar = 0.0,
        maximize: bool = False,
        use_accelerated_op: bool = False,
    ):
        super().__init__(params, alias.adam(lr, betas, eps, weight_decay, eps_root=eps_root, maximize=maximize))


class AdamW(Optimizer):
    """:func:`optlayers.optim.adamw` as an optimizer."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Scalar = 1e-8,
        weight_decay: Scalar = 1e-2,
        *,
        eps_root: Scalar = 0.0,
        mask: Mask | None = None,
        maximize: bool = False,
        use_accelerated_op: bool = False,
    ):
        super().__init__(
            params, alias.adamw(lr, betas, eps, weight_decay, eps_root=eps_root, mask=mask, maximize=maximize)
        )


class AdaMax(Optimizer):
    """:func:`optlayers.optim.adamax` as an optimizer."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Rate = 2e-3,
        betas: Betas = (0.9, 0.999),
        eps: Scalar = 1e-8,
        weight_decay: Scalar = 0.0,
    ):
        super().__init__(params, alias.adamax(lr, betas, eps, weight_decay))


class AdaDelta(Optimizer):
    """:func:`optlayers.optim.adadelta` as an optimizer."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Rate = 1.0,
        rho: Scalar = 0.9,
        eps: Scalar = 1e-6,
        weight_decay: Scalar = 0.0,
    ):
        super().__init__(params, alias.adadelta(lr, rho, eps, weight_decay))


class RAdam(Optimizer):
    """:func:`optlayers.optim.radam` as an optimizer."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Scalar = 1e-8,
        weight_decay: Scalar = 0.0,
    ):
        super().__init__(params, alias.radam(lr, betas, eps, weight_decay))


class AdaGrad(Optimizer):
    """:func:`optlayers.optim.adagrad` as an optimizer."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: Rate = 1e-2,
        lr_decay: Scalar = 0.0,
        weight_decay: Scalar = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: Scalar = 1e-10,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params, alias.adagrad(lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize=maximize)
        )


class RMSProp(Optimizer):
    """:func:`optlayers.optim.rmsprop` as an optimizer."""

    def __init__(
        self,
        params: Iterable[Tensor],
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
    ):
        super().__init__(
            params,
            alias.rmsprop(
                lr,
                alpha,
                eps,
                weight_decay,
                momentum,
                centered,
                initial_scale=initial_scale,
                nesterov=nesterov,
                maximize=maximize,
            ),
        )


Adamax = AdaMax
Adadelta = AdaDelta
Adagrad = AdaGrad
RMSprop = RMSProp
