"""Derivatives that are not known, or that would be lost: asking for them raises instead of giving zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(message: str, count: int, *tensors: Tensor):
        return tuple(tensor.clone() for tensor in tensors[-count:])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx, *cotangents):
        raise RuntimeError(ctx.message)

    @staticmethod
    def jvp(ctx, *tangents):
        raise RuntimeError(ctx.message)


def underivable(message: str, values: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
    """`values` as functions of `sources` whose derivative raises RuntimeError with this message."""
    if not values:
        return []
    return list(_Once.apply(message, len(values), *sources, *values))


def check_closed(function: str, run: Callable[[list[Tensor]], Sequence[Tensor]], tensors: Sequence[Tensor]) -> None:
    """Raise ValueError if the result of `run` at these tensors depends on another one that requires a gradient."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    if any(result.requires_grad for result in run([tensor.detach() for tensor in tensors])):
        raise ValueError(
            f"{function}: the function uses a tensor from outside that requires a gradient, which would be lost; pass "
            "it in args."
        )
