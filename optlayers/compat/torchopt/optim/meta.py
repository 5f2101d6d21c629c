"""TorchOpt's meta optimizers: its argument order and defaults on :class:`optlayers.MetaOptimizer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .... import optim
from ....optim.aliases import Betas, Mask, Rate
from ....optim.lists import Scalar
from .. import alias
from ..base import bare


class MetaOptimizer(optim.MetaOptimizer):
    """:class:`optlayers.MetaOptimizer`: differentiable steps of a module by any transformation."""

    def __init__(self, module: nn.Module, impl: optim.GradientTransformation):
        super().__init__(module, bare(type(self).__name__, impl))
        self.impl = impl

    def state_dict(self) -> tuple[Any, ...]:
        """The states, one for each group, by reference."""
        return tuple(super().state_dict()["groups"])

    def load_state_dict(self, state_dict: Sequence[Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        super().load_state_dict({"groups": list(state_dict), "steps": 0})


class MetaSGD(MetaOptimizer):
    """Differentiable steps of :func:`optlayers.optim.sgd`."""

    def __init__(
        self,
        module: nn.Module,
        lr: Rate,
        momentum: Scalar = 0.0,
        weight_decay: Scalar = 0.0,
        dampening: Scalar = 0.0,
        nesterov: bool = False,
        moment_requires_grad: bool = True,
        maximize: bool = False,
    ):
        super().__init__(module, alias.sgd(lr, momentum, dampening, weight_decay, nesterov, maximize=maximize))


class MetaAdam(MetaOptimizer):
    """Differentiable steps of :func:`optlayers.optim.adam`."""

    def __init__(
        self,
        module: nn.Module,
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Scalar = 1e-8,
        weight_decay: Scalar = 0.0,
        *,
        eps_root: Scalar = 0.0,
        moment_requires_grad: bool = True,
        maximize: bool = False,
        use_accelerated_op: bool = False,
    ):
        super().__init__(module, alias.adam(lr, betas, eps, weight_decay, eps_root=eps_root, maximize=maximize))


class MetaAdamW(MetaOptimizer):
    """Differentiable steps of :func:`optlayers.optim.adamw`."""

    def __init__(
        self,
        module: nn.Module,
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
    ):
        super().__init__(
            module, alias.adamw(lr, betas, eps, weight_decay, eps_root=eps_root, mask=mask, maximize=maximize)
        )


class MetaAdaMax(MetaOptimizer):
    """Differentiable steps of :func:`optlayers.optim.adamax`."""

    def __init__(
        self,
        module: nn.Module,
        lr: Rate = 2e-3,
        betas: Betas = (0.9, 0.999),
        eps: Scalar = 1e-8,
        weight_decay: Scalar = 0.0,
        *,
        moment_requires_grad: bool = True,
    ):
        super().__init__(module, alias.adamax(lr, betas, eps, weight_decay))


class MetaAdaDelta(MetaOptimizer):
    """Differentiable steps of :func:`optlayers.optim.adadelta`."""

    def __init__(
        self,
        module: nn.Module,
        lr: Rate = 1.0,
        rho: Scalar = 0.9,
        eps: Scalar = 1e-6,
        weight_decay: Scalar = 0.0,
        *,
        moment_requires_grad: bool = True,
    ):
        super().__init__(module, alias.adadelta(lr, rho, eps, weight_decay))


class MetaRAdam(MetaOptimizer):
    """Differentiable steps of :func:`optlayers.optim.radam`."""

    def __init__(
        self,
        module: nn.Module,
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: Scalar = 1e-8,
        weight_decay: Scalar = 0.0,
        *,
        moment_requires_grad: bool = True,
    ):
        super().__init__(module, alias.radam(lr, betas, eps, weight_decay))


class MetaAdaGrad(MetaOptimizer):
    """Differentiable steps of :func:`optlayers.optim.adagrad`."""

    def __init__(
        self,
        module: nn.Module,
        lr: Rate = 1e-2,
        lr_decay: Scalar = 0.0,
        weight_decay: Scalar = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: Scalar = 1e-10,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            module, alias.adagrad(lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize=maximize)
        )


class MetaRMSProp(MetaOptimizer):
    """Differentiable steps of :func:`optlayers.optim.rmsprop`."""

    def __init__(
        self,
        module: nn.Module,
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
            module,
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


MetaAdamax = MetaAdaMax
MetaAdadelta = MetaAdaDelta
MetaAdagrad = MetaAdaGrad
MetaRMSprop = MetaRMSProp
