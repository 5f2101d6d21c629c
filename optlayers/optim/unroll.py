r"""Long unrolled iterations in the memory of about ``2 sqrt(steps)`` states: segments are run again in backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from .._base import tree
from .._base.forward_mode import forbid_nested_forward
from .._base.tree import Tree
from .once import check_closed

Segment = Callable[[Sequence[Tensor]], list[Tensor]]  # from the tensors of (state, args) to those of the state


def unroll(
    step: Callable[..., Tree], state: Tree, steps: int, args: tuple[Any, ...] = (), *, every: int | None = None
) -> Tree:
    """Apply ``state <- step(state, *args)`` so many times; only each `every`-th state is kept for the derivative.

    Backward runs each segment of `every` steps again from the state it began with, so a derivative costs one more
    forward pass. Differentiable in `state` and `args`, in both modes, at any order; values and derivatives are those of
    the loop.

    Args:
        step: a function of pytrees; gradients inside come from :func:`torch.func.grad`. It must give the same result
            when called again, and what is to have a derivative must come through `state` or `args`.
        state: a pytree, such as parameters together with the state of a :class:`GradientTransformation`. Structure,
            shapes and dtypes must not change.
        steps: how many.
        args: further arguments, the same at every step, pytrees.
        every: the length of a segment; the root of `steps` by default.

    Returns:
        The last state.

    Raises:
        ValueError: a number of steps below zero or a segment below one; a step that changes the structure of the state,
            or that uses a tensor from outside which requires a gradient.

    References: Griewank, "Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
    differentiation" (1992); Chen et al., "Training deep nets with sublinear memory cost" (2016).
    """
    length = math.isqrt(max(steps - 1, 0)) + 1 if every is None else every
    if steps < 0 or length < 1:
        raise ValueError(f"unroll: steps is {steps} and every {every}; expected steps >= 0 and every >= 1.")
    moving, rebuild_state = tree.partition(state)
    fixed, rebuild_args = tree.partition(args)
    # Segments must not hold the tensors that come out of them: the graph would hold itself, and never be freed.
    kinds = [(tuple(tensor.shape), tensor.dtype) for tensor in moving]

    def segment(count: int) -> Segment:
        def run(tensors: Sequence[Tensor]) -> list[Tensor]:
            at, given = rebuild_state(tensors[: len(kinds)]), rebuild_args(tensors[len(kinds) :])
            for _ in range(count):
                at = step(at, *given)
            return _tensors_of(at, kinds)

        return run

    if steps > 0:
        check_closed("unroll", segment(1), [*moving, *fixed])
    for start in range(0, steps, length):
        function = _Segment if torch.compiler.is_compiling() else _SegmentForward
        moving = list(function.apply(segment(min(length, steps - start)), *moving, *fixed))
    return rebuild_state(moving)


def _tensors_of(state: Tree, kinds: list[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
    tensors, _ = tree.partition(state)
    found = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    if found != kinds:
        raise ValueError(f"unroll: step turned tensors of {kinds} into {found}; expected the same shapes and dtypes.")
    return tensors


class _Segment(torch.autograd.Function):
    """Some steps, of which only the input is kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(run: Segment, *tensors: Tensor):
        return tuple(value.clone() for value in run(tensors))  # an output must not be an input

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.run = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.mark_non_differentiable(*[value for value in output if not value.is_floating_point()])

    @staticmethod
    def backward(ctx, *cotangents):
        tensors = list(ctx.saved_tensors)
        wanted = [i for i, need in enumerate(ctx.needs_input_grad[1:]) if need and tensors[i].is_floating_point()]
        run = _restricted(ctx.run, tensors, wanted)
        _, pull = vjp(run, *[tensors[i] for i in wanted])[:2]
        floating = [c for c, t in zip(cotangents, tensors, strict=False) if t.is_floating_point()]
        grads: list[Tensor | None] = [None] * len(tensors)
        for place, grad in zip(wanted, pull(tuple(floating)), strict=True):
            grads[place] = grad
        return None, *grads


class _SegmentForward(_Segment):
    """The same with forward mode, which torch.compile cannot trace through."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        _Segment.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])
        ctx.floating = [value.is_floating_point() for value in output]

    @staticmethod
    def jvp(ctx, _run, *tangents):
        forbid_nested_forward("unroll")
        tensors = list(ctx.saved_tensors)
        moving = [i for i, t in enumerate(tangents) if t is not None and tensors[i].is_floating_point()]
        values, pull = vjp(_restricted(ctx.run, tensors, moving), *[tensors[i] for i in moving])[:2]
        # Forward mode does not nest inside Function.jvp; the pull-back is linear, so its own pull-back is the product.
        zeros = tuple(torch.zeros_like(value) for value in values)
        changes = iter(vjp(pull, zeros)[1](tuple(tangents[i] for i in moving))[0])
        return tuple(next(changes) if floating else None for floating in ctx.floating)


def _restricted(run: Segment, tensors: list[Tensor], places: list[int]) -> Callable[..., tuple[Tensor, ...]]:
    """The floating outputs as a function of the tensors at `places` only."""

    def fn(*some: Tensor) -> tuple[Tensor, ...]:
        full = list(tensors)
        for place, value in zip(places, some, strict=True):
            full[place] = value
        return tuple(value.view_as(value) for value in run(full) if value.is_floating_point())

    return fn
