"""Code that reads values (numpy, scipy, a solver in C), run on a batch below every transform, vmap included."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from .tracking import paused, transformed


class _Opaque(torch.autograd.Function):
    """``fn`` of tensors with one batch dimension, of size `count`, or 1 where a tensor is shared by the batch.

    What vmap maps over becomes a part of the batch, so that `fn` always gets plain tensors.
    """

    @staticmethod
    def forward(fn, count: int, *tensors: Tensor):
        return tuple(fn(count, [tensor.detach() for tensor in tensors]))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.num_inputs = len(inputs)
        ctx.save_for_forward(*output)
        ctx.save_for_backward()

    @staticmethod
    def backward(ctx, *cotangents):
        return (None,) * ctx.num_inputs

    @staticmethod
    def jvp(ctx, *tangents):
        return tuple(torch.zeros_like(value) for value in ctx.saved_tensors)

    @staticmethod
    def vmap(info, in_dims, fn, count, *tensors: Tensor):
        size = info.batch_size
        merged = []
        for tensor, dim in zip(tensors, in_dims[2:], strict=True):
            if dim is None:
                if tensor.shape[0] != 1:  # a shared one stays shared
                    tensor = tensor.repeat(size, *(1,) * (tensor.dim() - 1))
            else:
                tensor = tensor.movedim(dim, 0)
                tensor = tensor.expand(size, count, *tensor.shape[2:]).flatten(0, 1)
            merged.append(tensor)
        out = _Opaque.apply(fn, size * count, *merged)
        return tuple(value.unflatten(0, (size, count)) for value in out), (0,) * len(out)


def opaque(fn: Callable[[int, list[Tensor]], Sequence[Tensor]], count: int, tensors: Sequence[Tensor]) -> list[Tensor]:
    """``fn(count, tensors)`` as constants: new tensors ``(count, ...)``, through which no derivative flows.

    `fn` gets detached tensors, the batch first, of size `count` or 1, and returns floating ones; under vmap the count
    is larger than here.
    """
    if any(map(is_legacy_batchedtensor, tensors)):
        raise RuntimeError(
            "optlayers: is_grads_batched=True (and vectorize=True) map by an old vmap that cannot be looked behind, as "
            "this solver must. Use torch.func.jacrev or torch.func.vmap."
        )
    if not transformed():
        with paused():
            return list(fn(count, [tensor.detach() for tensor in tensors]))
    return list(_Opaque.apply(fn, count, *tensors))
