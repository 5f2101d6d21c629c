"""Transformations that rescale: by a number, a schedule, weight decay, centralization, the replacement of NaN."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._base.tree import Tree
from . import counting, lists
from .hyper import check_nonnegative, is_zero
from .lists import Scalar, Tensors
from .transformation import GradientTransformation, State, identity, masked, stateless

Schedule = Callable[[float | Tensor], Scalar]  # of the number of steps taken before


def scale(step_size: Scalar) -> GradientTransformation:
    """Multiply the updates.

    Args:
        step_size: a number, or a tensor that broadcasts with every update: a 0-d tensor, or one rate for each entry.
    """
    return stateless(lambda updates, params: lists.scale(updates, step_size))


def scale_by_schedule(step_size: Schedule) -> GradientTransformation:
    """Multiply the updates by ``step_size(n)`` at step ``n = 0, 1, ...``."""

    def update(updates: Tensors, state: State, params: Tensors | None, _: bool) -> tuple[Tensors, State]:
        size = step_size(counting.read(state["step"]))
        return lists.scale(updates, size), {"step": state["step"] + 1}

    return GradientTransformation(lambda params: {"step": counting.start()}, update)


def scale_by_learning_rate(lr: Scalar | Schedule) -> GradientTransformation:
    """Multiply the updates by ``-lr``, a number, a tensor or a schedule: from here on they are to be added."""
    if callable(lr):
        return scale_by_schedule(lambda step: -lr(step))
    # Negated at each step: a tensor may have been changed in place by then, by an outer optimizer say.
    return stateless(lambda updates, params: lists.scale(updates, -lr))


def negate(maximize: bool) -> GradientTransformation:
    """Turn ascent into descent."""
    return scale(-1.0) if maximize else identity()


def add_decayed_weights(
    weight_decay: Scalar, mask: Tree | Callable[[Tensors], Tree] | None = None
) -> GradientTransformation:
    """Add ``weight_decay * params`` to the updates, to those that `mask` picks (see :func:`masked`).

    Raises:
        ValueError: ``update`` was called without `params`.
    """
    check_nonnegative("add_decayed_weights", weight_decay=weight_decay)
    if is_zero(weight_decay):
        return identity()

    def add(updates: Tensors, params: Tensors | None) -> Tensors:
        return lists.add(updates, needed("add_decayed_weights", params), weight_decay)

    return stateless(add) if mask is None else masked(stateless(add), mask)


def add_proximal_decay(lr: Scalar | Schedule, weight_decay: Scalar) -> GradientTransformation:
    """Turn updates ``u`` into those of ``(params + u) / (1 + lr weight_decay)``, the implicit decay of Adan."""
    check_nonnegative("add_proximal_decay", lr=lr, weight_decay=weight_decay)
    if is_zero(weight_decay):
        return identity()

    def update(updates: Tensors, state: State, params: Tensors | None, _: bool) -> tuple[Tensors, State]:
        rate = lr(counting.read(state["step"])) if callable(lr) else lr
        strength = lists.precise(weight_decay) * lists.precise(rate)
        moved = lists.add(updates, needed("add_proximal_decay", params), -strength)
        return lists.scale(moved, 1 / (1 + strength)), {"step": state["step"] + 1}

    return GradientTransformation(lambda params: {"step": counting.start()}, update)


def needed(function: str, params: Tensors | None) -> Tensors:
    """`params`, or the error that they are missing."""
    if params is None:
        raise ValueError(f"{function}: params is None; call update(updates, state, params).")
    return params


def centralize() -> GradientTransformation:
    """Subtract from each update of two or more dimensions its mean over all but the first.

    References: Yong et al., "Gradient centralization" (2020).
    """

    def center(update: Tensor) -> Tensor:
        return update - update.flatten(1).mean(1).reshape(-1, *[1] * (update.ndim - 1)) if update.ndim > 1 else update

    return stateless(lambda updates, params: lists.each(center, updates))


def nan_to_num(nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> GradientTransformation:
    """Replace NaN and infinities, whose derivative is then zero; None is the largest number of the dtype."""
    return stateless(lambda updates, params: [torch.nan_to_num(u, nan, posinf, neginf) for u in updates])
