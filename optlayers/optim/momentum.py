"""Transformations that keep a first moment only: momentum, Lion's sign."""

from __future__ import annotations

import torch
from torch import Tensor

from .._native.update_ops import Moments, Second
from . import counting, lists
from .assembly import by_moments
from .hyper import check_fractions, check_nonnegative, is_zero
from .lists import Scalar, Tensors
from .moment_rule import MomentRule
from .transformation import GradientTransformation, State


def trace(
    momentum: Scalar, dampening: Scalar = 0.0, nesterov: bool = False, *, fused: bool = True
) -> GradientTransformation:
    """Accumulate ``t <- momentum t + (1 - dampening) g``; the first ``t`` is ``g``, as in :class:`torch.optim.SGD`.

    The update is ``t``, or ``g + momentum t`` with `nesterov`.

    References: Polyak (1964); Sutskever et al., "On the importance of initialization and momentum" (2013).
    """
    check_nonnegative("trace", momentum=momentum, dampening=dampening)
    damped = not is_zero(dampening)
    alpha, beta = (momentum, 1.0) if nesterov else (1.0, 0.0)

    def init(params: Tensors) -> State:
        return {"trace": lists.zeros(params), **({"step": counting.start()} if damped else {})}

    def numbers(state: State) -> tuple[Moments, State]:
        weight, counted = 1.0, {}
        if damped:
            weight = _after_first(counting.read(state["step"]), dampening)
            counted = {"step": state["step"] + 1}
        return Moments(Second.NONE, keep1=momentum, take1=weight, alpha=alpha, beta=beta), counted

    return by_moments(init, MomentRule(("trace", None, None), numbers), fused)


def _after_first(step: float | Tensor, dampening: Scalar) -> Scalar:
    if isinstance(step, Tensor):
        return 1 - dampening * (step > 0).to(step)
    return 1 - dampening if step > 0 else 1.0


def scale_by_lion(b1: Scalar = 0.9, b2: Scalar = 0.99) -> GradientTransformation:
    """The sign of ``b1 m + (1 - b1) g``, where ``m`` is a moving average with rate `b2`. Its derivative is zero.

    References: Chen et al., "Symbolic discovery of optimization algorithms" (2023).
    """
    check_fractions("scale_by_lion", b1=b1, b2=b2)

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        signs = [torch.sign(u) for u in lists.average(state["mu"], updates, b1)]
        return signs, {"mu": lists.average(state["mu"], updates, b2, overwrite)}

    return GradientTransformation(lambda params: {"mu": lists.zeros(params)}, update)
