"""The optimizers, each one expression from transformations.

All hyper-parameters may be tensors (0-d, or of shapes that broadcast with every parameter) and are differentiable;
`lr` may be a schedule, too. Defaults are those of :mod:`torch.optim`.

Where all of them but `lr` are numbers, a kernel takes the step of all tensors at once, and another one its derivative.
There `fused` of False asks for plain torch, which has the same values.
"""

from __future__ import annotations

from .assembly import Mask, Rate, optimizer
from .hyper import check_betas, check_nonnegative, is_zero
from .lists import Scalar, precise
from .moments import scale_by_adam, scale_by_adamax, scale_by_adan, scale_by_nadam, scale_by_radam
from .momentum import scale_by_lion, trace
from .rescaling import scale_by_adadelta, scale_by_rms, scale_by_rss, scale_by_trust_ratio
from .scaling import add_decayed_weights, add_proximal_decay, negate, scale_by_learning_rate
from .torch_kernel import with_torch_step
from .transformation import GradientTransformation, chain, identity

Betas = tuple[Scalar, Scalar]


def sgd(
    lr: Rate = 1e-3,
    momentum: Scalar = 0.0,
    dampening: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """Gradient descent, with momentum if that is given (see :func:`~optlayers.optim.trace`).

    Raises:
        ValueError: a negative option, or `nesterov` without momentum or with dampening.
    """
    check_nonnegative("sgd", lr=lr)
    if nesterov and (is_zero(momentum) or not is_zero(dampening)):
        raise ValueError(f"sgd: nesterov needs momentum and no dampening; got {momentum} and {dampening}.")
    moving = identity() if is_zero(momentum) else trace(momentum, dampening, nesterov, fused=fused)
    return optimizer(moving, lr, weight_decay, False, maximize)


def adam(
    lr: Rate = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    eps_root: Scalar = 0.0,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """First over root of second moment; `eps_root` is added inside the root (:func:`~optlayers.optim.scale_by_adam`).

    References: Kingma and Ba, "Adam: a method for stochastic optimization" (2015).
    """
    check_nonnegative("adam", lr=lr)
    check_betas("adam", betas)
    scaled = scale_by_adam(*betas, eps, eps_root, amsgrad, fused=fused)
    plain = optimizer(scaled, lr, weight_decay, False, maximize)
    if not fused or not is_zero(eps_root):
        return plain
    return with_torch_step(plain, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled=False)


def adamw(
    lr: Rate = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
    eps_root: Scalar = 0.0,
    mask: Mask | None = None,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """Adam with decoupled weight decay, of the parameters that `mask` picks (:func:`~optlayers.optim.masked`).

    References: Loshchilov and Hutter, "Decoupled weight decay regularization" (2019).
    """
    check_nonnegative("adamw", lr=lr)
    check_betas("adamw", betas)
    scaled = scale_by_adam(*betas, eps, eps_root, amsgrad, fused=fused)
    plain = optimizer(scaled, lr, weight_decay, True, maximize, mask)
    if not fused or not is_zero(eps_root) or mask is not None:
        return plain
    return with_torch_step(plain, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled=True)


def nadam(
    lr: Rate = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum_decay: Scalar = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """Adam with Nesterov's momentum (:func:`~optlayers.optim.scale_by_nadam`).

    References: Dozat, "Incorporating Nesterov momentum into Adam" (2016).
    """
    check_betas("nadam", betas)
    scaled = scale_by_nadam(*betas, eps, momentum_decay, fused=fused)
    return _decayed("nadam", scaled, lr, weight_decay, decoupled_weight_decay, maximize)


def radam(
    lr: Rate = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """Adam with a rectified adaptive rate (:func:`~optlayers.optim.scale_by_radam`).

    References: Liu et al., "On the variance of the adaptive learning rate and beyond" (2020).
    """
    check_betas("radam", betas)
    scaled = scale_by_radam(*betas, eps, fused=fused)
    return _decayed("radam", scaled, lr, weight_decay, decoupled_weight_decay, maximize)


def adamax(
    lr: Rate = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    maximize: bool = False,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """Adam in the infinity norm (:func:`~optlayers.optim.scale_by_adamax`).

    References: Kingma and Ba, "Adam: a method for stochastic optimization" (2015), section 7.
    """
    check_betas("adamax", betas)
    return _decayed("adamax", scale_by_adamax(*betas, eps, fused=fused), lr, weight_decay, False, maximize)


def adadelta(
    lr: Rate = 1.0, rho: Scalar = 0.9, eps: Scalar = 1e-6, weight_decay: Scalar = 0.0, maximize: bool = False
) -> GradientTransformation:
    """Steps in the units of the parameters (:func:`~optlayers.optim.scale_by_adadelta`).

    References: Zeiler, "ADADELTA: an adaptive learning rate method" (2012).
    """
    return _decayed("adadelta", scale_by_adadelta(rho, eps), lr, weight_decay, False, maximize)


def adagrad(
    lr: Rate = 1e-2,
    lr_decay: Scalar = 0.0,
    weight_decay: Scalar = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: Scalar = 1e-10,
    maximize: bool = False,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """Steps over the root of all squares so far (:func:`~optlayers.optim.scale_by_rss`), at ``lr / (1 + n lr_decay)``.

    References: Duchi et al., "Adaptive subgradient methods" (2011).
    """
    check_nonnegative("adagrad", lr=lr, lr_decay=lr_decay)
    slowing = (
        None if is_zero(lr_decay) else lambda n: precise(lr(n) if callable(lr) else lr) / (1 + n * precise(lr_decay))
    )
    scaled = scale_by_rss(initial_accumulator_value, eps, fused=fused)
    return _decayed("adagrad", scaled, slowing or lr, weight_decay, False, maximize)


def rmsprop(
    lr: Rate = 1e-2,
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    momentum: Scalar = 0.0,
    centered: bool = False,
    maximize: bool = False,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """Steps over a running root mean square (:func:`~optlayers.optim.scale_by_rms`).

    References: Hinton, lecture 6 of "Neural networks for machine learning" (2012); Graves (2013) for `centered`.
    """
    scaled = scale_by_rms(alpha, eps, centered, fused=fused)
    moving = scaled if is_zero(momentum) else chain(scaled, trace(momentum, fused=fused))
    return _decayed("rmsprop", moving, lr, weight_decay, False, maximize)


def adan(
    lr: Rate = 1e-3,
    betas: tuple[Scalar, Scalar, Scalar] = (0.98, 0.92, 0.99),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    maximize: bool = False,
) -> GradientTransformation:
    """Adam with an estimate of Nesterov's gradient (:func:`~optlayers.optim.scale_by_adan`) and proximal weight decay.

    References: Xie et al., "Adan: adaptive Nesterov momentum algorithm" (2022).
    """
    check_nonnegative("adan", lr=lr)
    check_betas("adan", betas, 3)
    return chain(
        negate(maximize),
        scale_by_adan(*betas, eps),
        scale_by_learning_rate(lr),
        add_proximal_decay(lr, weight_decay),
    )


def lion(
    lr: Rate = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: Scalar = 0.0, maximize: bool = False
) -> GradientTransformation:
    """Signs of an average (:func:`~optlayers.optim.scale_by_lion`); weight decay is decoupled.

    References: Chen et al., "Symbolic discovery of optimization algorithms" (2023).
    """
    check_betas("lion", betas)
    return _decayed("lion", scale_by_lion(*betas), lr, weight_decay, True, maximize)


def lamb(
    lr: Rate = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Scalar = 1e-6,
    weight_decay: Scalar = 0.0,
    maximize: bool = False,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """Adam, with decoupled weight decay, scaled to the norm of each tensor.

    References: You et al., "Large batch optimization for deep learning: training BERT in 76 minutes" (2020).
    """
    check_nonnegative("lamb", lr=lr)
    check_betas("lamb", betas)
    return chain(
        negate(maximize),
        scale_by_adam(*betas, eps, fused=fused),
        add_decayed_weights(weight_decay),
        scale_by_trust_ratio(),
        scale_by_learning_rate(lr),
    )


def _decayed(
    name: str, scaled: GradientTransformation, lr: Rate, weight_decay: Scalar, decoupled: bool, maximize: bool
) -> GradientTransformation:
    check_nonnegative(name, lr=lr)
    return optimizer(scaled, lr, weight_decay, decoupled, maximize)
