"""Transformations that divide by a running size of the gradient (AdaGrad, RMSProp, AdaDelta), or fit a parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from .._native.update_ops import Moments, Second
from . import lists
from .assembly import by_moments
from .clip import norm
from .hyper import check_fractions, check_nonnegative
from .lists import Scalar, Tensors
from .moment_rule import MomentRule
from .scaling import needed
from .transformation import GradientTransformation, State, stateless


def scale_by_rss(
    initial_accumulator_value: float = 0.0, eps: Scalar = 1e-10, *, fused: bool = True
) -> GradientTransformation:
    """``g / (sqrt(sum of g^2 so far) + eps)``.

    References: Duchi et al., "Adaptive subgradient methods" (2011).
    """
    check_nonnegative("scale_by_rss", initial_accumulator_value=initial_accumulator_value, eps=eps)

    def init(params: Tensors) -> State:
        return {"sum": [torch.full_like(p, initial_accumulator_value) for p in params]}

    def numbers(state: State) -> tuple[Moments, State]:
        return Moments(Second.SQUARE, keep2=1.0, take2=1.0, alpha=0.0, beta=1.0, epsilon=eps), {}

    return by_moments(init, MomentRule((None, "sum", None), numbers), fused)


def scale_by_rms(
    alpha: Scalar = 0.99,
    eps: Scalar = 1e-8,
    centered: bool = False,
    initial_scale: float = 0.0,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """``g / (sqrt(v) + eps)``, where ``v`` averages ``g^2``, less the squared average of ``g`` if `centered`.

    References: Hinton, lecture 6 of "Neural networks for machine learning" (2012); Graves (2013) for `centered`.
    """
    check_fractions("scale_by_rms", alpha=alpha)
    check_nonnegative("scale_by_rms", eps=eps, initial_scale=initial_scale)
    second, mean = (Second.CENTERED, "mu") if centered else (Second.SQUARE, None)

    def init(params: Tensors) -> State:
        square = [torch.full_like(p, initial_scale) for p in params]
        return {"nu": square, **({"mu": lists.zeros(params)} if centered else {})}

    def numbers(state: State) -> tuple[Moments, State]:
        return Moments(second, keep1=alpha if centered else 0.0, keep2=alpha, alpha=0.0, beta=1.0, epsilon=eps), {}

    return by_moments(init, MomentRule((mean, "nu", None), numbers), fused)


def scale_by_stddev(
    alpha: Scalar = 0.99, eps: Scalar = 1e-8, initial_scale: float = 0.0, *, fused: bool = True
) -> GradientTransformation:
    """``g`` over its running standard deviation: centered :func:`scale_by_rms`."""
    return scale_by_rms(alpha, eps, centered=True, initial_scale=initial_scale, fused=fused)


def scale_by_adadelta(rho: Scalar = 0.9, eps: Scalar = 1e-6) -> GradientTransformation:
    """``g sqrt(d + eps) / sqrt(v + eps)``, where ``v`` averages ``g^2`` and ``d`` the squared updates.

    References: Zeiler, "ADADELTA: an adaptive learning rate method" (2012).
    """
    check_fractions("scale_by_adadelta", rho=rho)
    check_nonnegative("scale_by_adadelta", eps=eps)

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        nu = lists.average_square(state["nu"], updates, rho, overwrite)
        ratio = lists.divide(lists.root(lists.shift(state["delta"], eps)), lists.root(lists.shift(nu, eps)))
        scaled = lists.multiply(ratio, updates)
        return scaled, {"nu": nu, "delta": lists.average_square(state["delta"], scaled, rho, overwrite)}

    return GradientTransformation(lambda params: {"nu": lists.zeros(params), "delta": lists.zeros(params)}, update)


def scale_by_trust_ratio() -> GradientTransformation:
    """Scale the update of each tensor to the norm of its parameter; where either norm is zero, leave it.

    References: You et al., "Large batch optimization for deep learning: training BERT in 76 minutes" (2020).
    """

    def trusted(update: Tensor, param: Tensor) -> Tensor:
        least = 2 * lists.smallest(update.dtype)
        size, length = norm(param), norm(update)
        both = (size > least) & (length > least)
        return update * torch.where(both, size / torch.where(both, length, 1.0), 1.0)

    def apply(updates: Tensors, params: Tensors | None) -> Tensors:
        return lists.each(trusted, updates, needed("scale_by_trust_ratio", params))

    return stateless(apply)
