"""Transformations from rules for moments, and optimizers from transformations: one kernel where the chain allows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .._base.tree import Tree
from .._native.update_ops import Moments
from . import counting, lists
from .fused import fused_apply, fused_step
from .lists import Scalar, Tensors
from .moment_rule import Entry, MomentRule, moment_step
from .scaling import Schedule, add_decayed_weights, negate, scale_by_learning_rate
from .transformation import GradientTransformation, Init, State, chain

Rate = Scalar | Schedule
Mask = Tree | Callable[[Tensors], Tree]


def by_moments(init: Init, rule: MomentRule, fused: bool) -> GradientTransformation:
    """The transformation of a rule, by a kernel if `fused` and where there is one."""

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        numbers, shared = rule.numbers(state)
        entry: Entry = (updates, None, *rule.moments_of(state))
        after = fused_step(numbers, entry, overwrite) if fused else None
        scaled, *moments = after or moment_step(numbers, entry, overwrite)
        return scaled, rule.renewed(state, shared, tuple(moments))

    return GradientTransformation(init, update, rule=rule if fused else None)


def optimizer(
    scaled: GradientTransformation,
    lr: Rate,
    weight_decay: Scalar,
    decoupled: bool,
    maximize: bool,
    mask: Mask | None = None,
) -> GradientTransformation:
    """`scaled` after weight decay, before it if `decoupled`; then the learning rate."""
    decay = add_decayed_weights(weight_decay, mask)
    first, second = (scaled, decay) if decoupled else (decay, scaled)
    parts = chain(negate(maximize), first, second, scale_by_learning_rate(lr))
    rule = scaled.rule
    if rule is None or mask is not None or isinstance(weight_decay, Tensor):
        return parts
    place, sign = (1 if decoupled else 2), (-1.0 if maximize else 1.0)

    def gather(grads: Tensors, params: Tensors | None, states: State) -> tuple[Moments, Entry, Any, Scalar]:
        """What the kernel needs for the chain, the shared entries of the next state, and the rate it leaves out."""
        numbers, shared = rule.numbers(states[place])
        rate = lr(counting.read(states[3]["step"])) if callable(lr) else lr
        factor, left = (-1.0, rate) if isinstance(rate, Tensor) else (-rate, 1.0)
        numbers = numbers._replace(
            alpha=factor * numbers.alpha,
            beta=factor * numbers.beta,
            gradient=sign,
            decay=0.0 if decoupled else weight_decay,
            shrink=factor * weight_decay if decoupled else 0.0,
        )
        at = params if weight_decay else None
        return numbers, (grads, at, *rule.moments_of(states[place])), shared, left

    def renew(states: State, shared: State, moments: tuple[Tensors | None, ...]) -> State:
        new = list(states)
        new[place] = rule.renewed(states[place], shared, moments)
        if callable(lr):
            new[3] = {"step": states[3]["step"] + 1}
        return tuple(new)

    def update(grads: Tensors, states: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        if params is None and weight_decay:
            return parts.update_list(grads, states, params, overwrite)  # which raises
        numbers, entry, shared, left = gather(grads, params, states)
        after = fused_step(numbers, entry, overwrite)
        if after is None:
            return parts.update_list(grads, states, params, overwrite)
        updates, *moments = after
        updates = lists.scale(updates, left) if isinstance(left, Tensor) else updates
        return updates, renew(states, shared, tuple(moments))

    def step(params: Tensors, grads: Tensors, states: State) -> State | None:
        numbers, (_, _, m, v, top), shared, left = gather(grads, params, states)
        if isinstance(left, Tensor) or not fused_apply(numbers, (grads, params, m, v, top)):
            return None
        return renew(states, shared, (m, v, top))

    return GradientTransformation(parts.init_list, update, step)
