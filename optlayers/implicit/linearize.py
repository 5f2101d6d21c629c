"""Products with a Jacobian, many of them at one point, from one evaluation of the function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .rule import Product, pull_back, pulling, push_forward, pushing
from .tracking import transformed

Fn = Callable[..., list[Tensor]]


def linearize(fn: Fn, at: Sequence[Tensor], transpose: bool) -> tuple[Product, Product]:
    """``tangent -> J tangent`` and ``cotangent -> J' cotangent``; the one that `transpose` names is the quick one.

    Primal only: nothing is to be differentiated through the products.
    """
    if not (torch.compiler.is_compiling() or transformed() or forward_ad._current_level >= 0):
        return _taped(fn, at)
    # Made here, not at the first product: that may happen inside a vmap, which its wrappers must not outlive.
    values, pull = pulling(fn, at)
    return (lambda u: push_forward(fn, at, u)) if transpose else pushing(values, pull), pull


def _taped(fn: Fn, at: Sequence[Tensor]) -> tuple[Product, Product]:
    """By plain autograd, at a third of the cost; a product asked for under a transform evaluates `fn` again."""
    with torch.enable_grad():
        inputs = [value.detach().requires_grad_() for value in at]
        values = fn(*inputs)
    transposed: list[tuple[list[Tensor], list[Tensor]]] = []  # J' duals, as a function of the duals

    def pull(cotangent: Sequence[Tensor]) -> list[Tensor]:
        return pull_back(fn, at, cotangent) if transformed() else _grad(values, inputs, cotangent)

    def push(tangent: Sequence[Tensor]) -> list[Tensor]:
        if transformed():
            return push_forward(fn, at, tangent)
        if not transposed:
            with torch.enable_grad():
                duals = [torch.zeros_like(value).requires_grad_() for value in values]
                transposed.append((duals, _grad(values, inputs, duals, create_graph=True)))
        duals, images = transposed[0]
        return _grad(images, duals, tangent)

    return push, pull


def _grad(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangent: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """``J' cotangent``, where outputs may be constants and inputs unused."""
    pairs = [(value, c) for value, c in zip(outputs, cotangent, strict=True) if value.requires_grad]
    if not pairs:
        return [torch.zeros_like(value) for value in inputs]
    grads = torch.autograd.grad(
        [value for value, _ in pairs],
        inputs,
        [c for _, c in pairs],
        retain_graph=True,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return list(grads)
