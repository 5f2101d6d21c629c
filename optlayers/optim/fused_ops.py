"""A step of lists of tensors as a function with derivatives: kernels for it and for its products with changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.func import vjp

from .._base.forward_mode import forbid_nested_forward
from .._native import update_ops
from .._native.update_ops import Moments
from . import moment_derivatives
from .lists import Tensors
from .moment_rule import moment_step

Holes = Sequence[Tensor | None]  # None counts as zero


class Op(ABC):
    """A function of tensors alike, entry by entry; derivatives are those of `plain` unless a subclass knows better."""

    @abstractmethod
    def run(self, tensors: Holes) -> Tensors:
        """By a kernel, unrecorded."""

    @abstractmethod
    def plain(self, tensors: Holes) -> Tensors:
        """The same in torch, recorded."""

    def pull(self, tensors: Holes, cotangents: Holes, needed: Sequence[bool]) -> list[Tensor | None]:
        """The cotangents of `tensors`, of those that are needed."""
        places = [place for place, need in enumerate(needed) if need and tensors[place] is not None]
        values, back = vjp(self._of(tensors, places), *[tensors[place] for place in places])[:2]
        grads: list[Tensor | None] = [None] * len(tensors)
        for place, grad in zip(places, back(_filled(cotangents, values)), strict=True):
            grads[place] = grad
        return grads

    def push(self, tensors: Holes, tangents: Holes) -> Tensors:
        """The tangents of the result: forward mode does not nest inside ``Function.jvp``, so by two pull-backs."""
        places = [place for place, tangent in enumerate(tangents) if tangent is not None]
        values, back = vjp(self._of(tensors, places), *[tensors[place] for place in places])[:2]
        zeros = _filled([None] * len(values), values)
        return list(vjp(back, zeros)[1](tuple(tangents[place] for place in places))[0])

    def _of(self, tensors: Holes, places: list[int]):
        def fn(*some: Tensor) -> tuple[Tensor, ...]:
            full = list(tensors)
            for place, value in zip(places, some, strict=True):
                full[place] = value
            return tuple(value.view_as(value) for value in self.plain(full))  # vjp does not return constants

        return fn


class Step(Op):
    """``(g, p, m, v, top) -> (u, m, v, top)`` of `count` tensors each, of those columns that are `there`."""

    def __init__(self, numbers: Moments, count: int, there: Sequence[bool]):
        self.numbers = numbers
        self.count = count
        self.there = there
        self.there_after = (True, *there[2:])

    def run(self, tensors: Holes) -> Tensors:
        if not update_ops.reachable(tensors):
            return self.plain(tensors)
        tensors = [update_ops.packed(tensor) for tensor in tensors]
        flat = self.empty(tensors)
        update_ops.step(self.numbers, self.columns(tensors, self.there), self.columns(flat, self.there_after))
        return flat

    def plain(self, tensors: Holes) -> Tensors:
        entry = [column if column is None else full(column) for column in self.columns(tensors, self.there)]
        after = moment_step(self.numbers, tuple(entry))  # pyright: ignore[reportArgumentType]
        return [tensor for column in after if column is not None for tensor in column]

    def pull(self, tensors: Holes, cotangents: Holes, needed: Sequence[bool]) -> list[Tensor | None]:
        op = Pull(self, [need and tensor is not None for need, tensor in zip(needed, tensors, strict=True)])
        found = iter(differentiable(op, [*tensors, *cotangents]))
        return [next(found) if wanted else None for wanted in op.wanted]

    def push(self, tensors: Holes, tangents: Holes) -> Tensors:
        return differentiable(Push(self), [*tensors, *tangents])

    def empty(self, tensors: Holes) -> Tensors:
        """Room for the result."""
        return [torch.empty_like(g) for _ in range(sum(self.there_after)) for g in full(tensors[: self.count])]

    def columns(self, flat: Holes, there: Sequence[bool]) -> list[list[Tensor | None] | None]:
        """A flat list by columns, None for those that are not there."""
        starts = iter(range(0, len(flat), self.count))
        return [list(flat[(start := next(starts)) : start + self.count]) if has else None for has in there]


class Pull(Op):
    """Those cotangents of a step's tensors that are `wanted`, from these tensors and the cotangents of its result."""

    def __init__(self, step: Step, wanted: Sequence[bool]):
        self.step = step
        self.wanted = wanted

    def run(self, tensors: Holes) -> Tensors:
        if not update_ops.reachable(tensors):
            return self.plain(tensors)
        step, size = self.step, len(self.wanted)
        tensors = [update_ops.packed(tensor) for tensor in tensors]
        flat = [torch.empty_like(t) if t is not None and need else None for t, need in zip(tensors, self.wanted)]  # noqa: B905
        entry, change = step.columns(tensors[:size], step.there), step.columns(tensors[size:], step.there_after)
        update_ops.pull(step.numbers, entry, change, step.columns(flat, step.there))
        return full(flat)

    def plain(self, tensors: Holes) -> Tensors:
        step, size = self.step, len(self.wanted)
        entry = _rows(step.columns(tensors[:size], step.there))
        bar = _rows(step.columns(tensors[size:], step.there_after), entry)
        grads = zip(
            *[moment_derivatives.pull(step.numbers, x, b) for x, b in zip(entry, bar, strict=True)], strict=True
        )
        flat = [grad for column, there in zip(grads, step.there, strict=True) if there for grad in column]
        return [grad for grad, wanted in zip(flat, self.wanted, strict=True) if wanted]


class Push(Op):
    """Tangents of a step's result from its tensors and their tangents."""

    def __init__(self, step: Step):
        self.step = step

    def run(self, tensors: Holes) -> Tensors:
        if not update_ops.reachable(tensors):
            return self.plain(tensors)
        step, size = self.step, len(tensors) // 2
        tensors = [update_ops.packed(tensor) for tensor in tensors]
        entry, change = step.columns(tensors[:size], step.there), step.columns(tensors[size:], step.there)
        flat = step.empty(tensors)
        update_ops.push(step.numbers, entry, change, step.columns(flat, step.there_after))
        return flat

    def plain(self, tensors: Holes) -> Tensors:
        step, size = self.step, len(tensors) // 2
        entry = _rows(step.columns(tensors[:size], step.there))
        dot = _rows(step.columns(tensors[size:], step.there), entry)
        out = zip(*[moment_derivatives.push(step.numbers, x, d) for x, d in zip(entry, dot, strict=True)], strict=True)
        return [tensor for column, there in zip(out, step.there_after, strict=True) if there for tensor in column]


class _Function(torch.autograd.Function):
    """An op for the transforms: as it works entry by entry, a mapped dimension is one like the others."""

    @staticmethod
    def forward(op: Op, *tensors: Tensor | None):
        return tuple(op.run(tensors))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.op, *tensors = inputs
        ctx.save_for_backward(*tensors)
        if forward_ad._current_level >= 0:  # else backward could not free them one by one
            ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *cotangents):
        return None, *ctx.op.pull(ctx.saved_tensors, cotangents, ctx.needs_input_grad[1:])

    @staticmethod
    def jvp(ctx, _op, *tangents):
        forbid_nested_forward("optlayers.optim")
        return tuple(ctx.op.push(ctx.saved_tensors, tangents))

    @staticmethod
    def vmap(info, in_dims, op, *tensors):
        moved = []
        for tensor, dim in zip(tensors, in_dims[1:], strict=True):
            if tensor is not None:
                tensor = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            moved.append(tensor)
        out = _Function.apply(op, *moved)
        return out, (0,) * len(out)


def differentiable(op: Op, tensors: Holes) -> Tensors:
    """``op.run(tensors)``, recorded where somebody records."""
    if peek_interpreter_stack() is None and forward_ad._current_level < 0:
        if not torch.is_grad_enabled() or not any([t is not None and t.requires_grad for t in tensors]):
            return op.run(tensors)
    return list(_Function.apply(op, *tensors))


def _rows(columns: Sequence[Holes | None], like: Sequence[tuple[Any, ...]] | None = None) -> list[tuple[Any, ...]]:
    """The columns tensor by tensor, 0.0 for what there is not; but the first is a tensor, where `like` is given."""
    count = len(next(column for column in columns if column is not None))
    filled = [[0.0] * count if c is None else [0.0 if t is None else t for t in c] for c in columns]
    if like is not None:
        filled[0] = [
            t if isinstance(t, Tensor) else torch.zeros_like(row[0]) for t, row in zip(filled[0], like, strict=True)
        ]
    return list(zip(*filled, strict=True))


def full(column: Holes) -> Tensors:
    return [tensor for tensor in column if tensor is not None]


def _filled(cotangents: Holes, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(v) if c is None else c for c, v in zip(cotangents, values, strict=True))
