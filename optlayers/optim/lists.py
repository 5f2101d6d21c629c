"""Arithmetic on lists of tensors: one foreach kernel for the list where there is one, one tensor at a time elsewhere.

`overwrite` allows the first list to be changed in place; the result may still be new tensors.
"""

# torch gives its foreach and fused kernels no public name, and no union of number and tensor.
# pyright: reportPrivateImportUsage=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

Tensors = list[Tensor]
Scalar = float | Tensor  # a tensor is 0-d, or broadcasts with every tensor of the list


def together(x: Sequence[Tensor], *scalars: Scalar, least: int = 2) -> bool:
    """Whether to call a foreach kernel: they have no batching rule and no derivative in a scalar.

    For fewer than `least` tensors they do not pay. In place a single one does, as its memory is used again.
    """
    if len(x) < least or torch.compiler.is_compiling() or peek_interpreter_stack() is not None:
        return False
    return not any(isinstance(scalar, Tensor) for scalar in scalars)


def as_scalar(c: Scalar, like: Tensor) -> Scalar:
    """A tensor scalar in the dtype and on the device of `like`, so that 0-d parameters are not promoted."""
    return c.to(like) if isinstance(c, Tensor) else c


def precise(c: Scalar) -> Scalar:
    """A tensor scalar in float64, for differences such as ``1 - 0.999``."""
    return c.double() if isinstance(c, Tensor) else c


def each(fn: Callable[..., Tensor], x: Sequence[Tensor], *others: Sequence[Tensor]) -> Tensors:
    """``fn`` over corresponding tensors."""
    return [fn(*row) for row in zip(x, *others, strict=True)]


def scale(x: Tensors, c: Scalar, overwrite: bool = False) -> Tensors:
    """``c x``"""
    if overwrite and together(x, c, least=1):
        torch._foreach_mul_(x, c)
        return x
    if together(x, c):
        return list(torch._foreach_mul(x, c))
    return [t * as_scalar(c, t) for t in x]


def shift(x: Tensors, c: Scalar, overwrite: bool = False) -> Tensors:
    """``x + c``"""
    if isinstance(c, (int, float)) and c == 0:
        return x
    if overwrite and together(x, c, least=1):
        torch._foreach_add_(x, c)
        return x
    if together(x, c):
        return list(torch._foreach_add(x, c))
    return [t + as_scalar(c, t) for t in x]


def add(x: Tensors, y: Tensors, c: Scalar = 1.0) -> Tensors:
    """``x + c y``"""
    if together(x, c):
        return list(torch._foreach_add(x, y, alpha=c))
    if isinstance(c, Tensor):
        return [a + as_scalar(c, a) * b for a, b in zip(x, y, strict=True)]
    return [torch.add(a, b, alpha=c) for a, b in zip(x, y, strict=True)]


def multiply(x: Tensors, y: Tensors) -> Tensors:
    """``x y``"""
    return list(torch._foreach_mul(x, y)) if together(x) else each(torch.mul, x, y)


def divide(x: Tensors, y: Tensors, overwrite: bool = False) -> Tensors:
    """``x / y``; here `overwrite` is about `y`."""
    if overwrite and together(x, least=1) and not any(b.requires_grad for b in y):
        return each(lambda a, b: torch.div(a, b, out=b), x, y)
    return list(torch._foreach_div(x, y)) if together(x) else each(torch.div, x, y)


def decay(x: Tensors, y: Tensors, keep: Scalar, weight: Scalar, overwrite: bool = False) -> Tensors:
    """``keep x + weight y``: an accumulator that forgets."""
    if overwrite and together(x, keep, weight, least=1):
        torch._foreach_mul_(x, keep)
        torch._foreach_add_(x, y, alpha=weight)
        return x
    return add(scale(x, keep), y, weight)


def average(x: Tensors, y: Tensors, keep: Scalar, overwrite: bool = False) -> Tensors:
    """``keep x + (1 - keep) y``: the moving average."""
    if overwrite and together(x, keep, least=1):
        torch._foreach_lerp_(x, y, 1 - keep)
        return x
    if together(x, keep):
        return list(torch._foreach_lerp(x, y, 1 - keep))
    return [torch.lerp(a, b, as_scalar(1 - precise(keep), a)) for a, b in zip(x, y, strict=True)]


def average_square(x: Tensors, y: Tensors, keep: Scalar, overwrite: bool = False) -> Tensors:
    """``keep x + (1 - keep) y^2``"""
    if overwrite and together(x, keep, least=1):
        torch._foreach_mul_(x, keep)
        torch._foreach_addcmul_(x, y, y, 1 - keep)
        return x
    kept = scale(x, keep)
    if together(x, keep):
        return list(torch._foreach_addcmul(kept, y, y, 1 - keep))
    if isinstance(keep, Tensor):
        return [a + as_scalar(1 - precise(keep), a) * b * b for a, b in zip(kept, y, strict=True)]
    return [torch.addcmul(a, b, b, value=1 - keep) for a, b in zip(kept, y, strict=True)]


def maximum(x: Tensors, y: Tensors) -> Tensors:
    """The larger of ``x`` and ``y``"""
    return list(torch._foreach_maximum(x, y)) if together(x) else each(torch.maximum, x, y)


def absolute(x: Tensors) -> Tensors:
    """``|x|``, with derivative 0 at 0"""
    return list(torch._foreach_abs(x)) if together(x) else each(torch.abs, x)


def smallest(dtype: torch.dtype) -> float:
    """The root of the smallest normal number: sizes of gradients below it count as that, a constant.

    So quotients by them are finite, and so are their derivatives.
    """
    return torch.finfo(dtype).tiny ** 0.5


def root(x: Tensors, overwrite: bool = False) -> Tensors:
    """The square root, at least :func:`smallest`; below that its derivative is 0. `x` is never changed."""
    if together(x, least=1 if overwrite else 2) and len({t.dtype for t in x}) == 1:
        floored = torch._foreach_clamp_min(x, torch.finfo(x[0].dtype).tiny)
        if overwrite:
            torch._foreach_sqrt_(floored)
            return list(floored)
        return list(torch._foreach_sqrt(floored))
    return [t.clamp_min(torch.finfo(t.dtype).tiny).sqrt() for t in x]


def at_least_smallest(x: Tensors) -> Tensors:
    """``x``, at least :func:`smallest`; below that its derivative is 0."""
    return [t.clamp_min(smallest(t.dtype)) for t in x]


def zeros(x: Tensors) -> Tensors:
    """Zeros like `x`, without its history."""
    return [torch.zeros_like(t) for t in x]
