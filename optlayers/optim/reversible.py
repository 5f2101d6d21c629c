r"""SGD with momentum whose derivative runs the training backwards: memory that does not grow with the graph.

Parameters and velocity are integers times a resolution (REV-2). All that a step forgets is which of the few velocities
with one ``floor(momentum V)`` it was; this digit is kept, some sixty of them in an int64 (REV-3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from .._base import tree
from .._base.tree import Tree
from .hyper import check_nonnegative
from .lists import Scalar
from .once import check_closed, underivable

Gradient = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]  # of the loss, at (params, args)


def reversible_sgd(
    loss: Callable[..., Tensor],
    params: Tree,
    steps: int,
    args: tuple[Any, ...] = (),
    *,
    lr: Scalar,
    momentum: Scalar = 0.9,
    resolution: float = 2.0**-40,
) -> Tree:
    """Train by SGD with momentum, ``v <- momentum v + grad``, ``params <- params - lr v``, from ``v = 0``.

    Differentiable once, in reverse mode, in `params`, `args`, `lr` and `momentum`, by running the steps backwards. The
    values are those of :func:`sgd` but for rounding to multiples of `resolution` at each step; the derivative takes the
    rounding for the identity. For second order or other optimizers there is :func:`unroll`.

    Args:
        loss: ``loss(params, *args)``, a scalar. Its gradient must be the same, bit for bit, when computed again.
        params: pytree of floating tensors.
        steps: how many.
        args: pytrees; everything that is to have a derivative.
        lr: a number or a 0-d tensor.
        momentum: a number or a 0-d tensor, in (0, 1).
        resolution: parameters and velocity stay below ``2^51`` times this, 2048 by default; an entry beyond that makes
            the result NaN.

    Returns:
        The last parameters.

    Raises:
        ValueError: an option outside its range, or under :func:`torch.vmap` a momentum that varies over the batch.

    References: Maclaurin et al., "Gradient-based hyperparameter optimization through reversible learning" (2015).
    """
    check_nonnegative("reversible_sgd", lr=lr, momentum=momentum, resolution=resolution)
    if steps < 0 or resolution == 0:
        raise ValueError(f"reversible_sgd: steps is {steps} and resolution {resolution}; expected >= 0 and > 0.")
    moving, rebuild = tree.partition(params)
    fixed, rebuild_args = tree.partition(args)

    def gradient(at: Sequence[Tensor], given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return grad(lambda p: loss(rebuild(list(p)), *rebuild_args(given)))(tuple(at))

    if not moving:
        raise ValueError("reversible_sgd: params holds no tensor.")
    hyper = [value if isinstance(value, Tensor) else moving[0].new_tensor(value) for value in (lr, momentum)]
    if any(value.ndim for value in hyper):
        raise ValueError(f"reversible_sgd: lr and momentum have shapes {[tuple(v.shape) for v in hyper]}; expected ().")
    check_closed("reversible_sgd", lambda t: gradient(t[: len(moving)], t[len(moving) :]), [*moving, *fixed])
    results = _Reversible.apply(gradient, steps, resolution, len(moving), *moving, *hyper, *fixed)
    return rebuild(list(results[: len(moving)]))


class _Code:
    """How many values of V share one ``floor(mu V)``, and how many such digits an int64 holds."""

    def __init__(self, momentum: Tensor):
        try:
            self.mu = float(momentum)
        except RuntimeError:
            raise ValueError(
                "reversible_sgd: momentum varies over a vmapped dimension; expected one for all."
            ) from None
        if not 0 < self.mu < 1:
            raise ValueError(f"reversible_sgd: momentum is {self.mu}; expected a number in (0, 1).")
        self.base = math.floor(1 / self.mu + 1e-6) + 1
        self.digits = math.floor(62 / math.log2(self.base))

    def shrink(self, v: Tensor) -> Tensor:
        """``floor(mu v)``, monotone in v also in floating point."""
        return torch.floor(v * self.mu)

    def first(self, w: Tensor) -> Tensor:
        """The smallest ``v`` with ``shrink(v) = w``; the guess is off by a rounding error only."""
        guess = torch.ceil(w / self.mu) - 2
        below = [(self.shrink(guess + k) < w).to(w) for k in range(4)]
        return guess + torch.stack(below).sum(0)


def _forward_step(code: _Code, gradient: Gradient, p, v, lr, resolution, like, args):
    """One step of integers (REV-2); also the digits that undo it."""
    slopes = gradient(_values(p, resolution, like), args)
    shrunk = [code.shrink(part) for part in v]
    digits = [part - code.first(small) for part, small in zip(v, shrunk, strict=True)]
    v = [small + _round(slope, resolution) for small, slope in zip(shrunk, slopes, strict=True)]
    p = [part - torch.round(lr * speed) for part, speed in zip(p, v, strict=True)]
    return p, v, [digit.long() for digit in digits]


def _values(p: Sequence[Tensor], resolution: float, like: Sequence[Tensor]) -> list[Tensor]:
    return [(part * resolution).to(tensor.dtype) for part, tensor in zip(p, like, strict=True)]


def _round(value: Tensor, resolution: float) -> Tensor:
    return torch.round(value.double() / resolution)


class _Reversible(torch.autograd.Function):
    """Returns the last parameters; then, for the way back, integer parameters and velocity, and the digits in words."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Gradient, steps: int, resolution: float, count: int, *tensors: Tensor):
        start, (lr, momentum), args = tensors[:count], tensors[count : count + 2], tensors[count + 2 :]
        code, rate = _Code(momentum), lr.double()
        p = [_round(part, resolution) for part in start]
        v = [torch.zeros_like(part) for part in p]
        inside = [part.abs() < 2.0**51 for part in p]
        words: list[Tensor] = []
        for step in range(steps):
            p, v, digits = _forward_step(code, gradient, p, v, rate, resolution, start, args)
            inside = [ok & (a.abs() < 2.0**51) & (b.abs() < 2.0**51) for ok, a, b in zip(inside, p, v, strict=True)]
            if step % code.digits == 0:
                words += digits
            else:
                words[-count:] = [word * code.base + digit for word, digit in zip(words[-count:], digits, strict=True)]
        values = [
            torch.where(ok, value, torch.nan) for ok, value in zip(inside, _values(p, resolution, start), strict=True)
        ]
        return (*values, *p, *v, *words)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.gradient, ctx.steps, ctx.resolution, ctx.count = inputs[:4]
        ctx.mark_non_differentiable(*output[ctx.count :])
        ctx.save_for_backward(*inputs[4:], *output[ctx.count :])
        ctx.inputs = len(inputs) - 4

    @staticmethod
    def backward(ctx, *cotangents):
        inputs, path = ctx.saved_tensors[: ctx.inputs], ctx.saved_tensors[ctx.inputs :]
        with torch.no_grad():
            grads = _walk_back(ctx, inputs, path, cotangents[: ctx.count])
        message = "reversible_sgd: its second derivative is not known; use optim.unroll."
        known = [value for value in grads if value is not None]
        known = iter(underivable(message, known, [*cotangents[: ctx.count], *inputs]))
        return (None,) * 4 + tuple(None if value is None else next(known) for value in grads)


def _walk_back(ctx, inputs: Sequence[Tensor], path: Sequence[Tensor], cotangents: Sequence[Tensor]):
    """Undo the steps from the last on, pulling the derivative back through each (REV-4)."""
    count, resolution, gradient = ctx.count, ctx.resolution, ctx.gradient
    start, (lr, momentum), args = inputs[:count], inputs[count : count + 2], inputs[count + 2 :]
    code, rate = _Code(momentum), lr.double()
    p, v, words = list(path[:count]), list(path[count : 2 * count]), list(path[2 * count :])
    to_p, to_v = list(cotangents), [torch.zeros_like(part) for part in start]
    to_rate, to_momentum = torch.zeros_like(lr), torch.zeros_like(momentum)
    moving = [place for place, arg in enumerate(args) if arg.is_floating_point()]
    to_args = [torch.zeros_like(args[place]) for place in moving]
    for step in reversed(range(ctx.steps)):
        speed = _values(v, resolution, start)
        p = [part + torch.round(rate * velocity) for part, velocity in zip(p, v, strict=True)]

        def slopes(at, some):
            given = list(args)
            for place, value in zip(moving, some, strict=True):
                given[place] = value
            return gradient(at, given)

        at = tuple(_values(p, resolution, start))
        slope, pull = vjp(slopes, at, tuple(args[place] for place in moving))[:2]
        shrunk = [part - _round(s, resolution) for part, s in zip(v, slope, strict=True)]
        word = step // code.digits * count
        digits = [code_word % code.base for code_word in words[word : word + count]]
        words[word : word + count] = [code_word // code.base for code_word in words[word : word + count]]
        v = [code.first(small) + digit for small, digit in zip(shrunk, digits, strict=True)]

        to_rate = to_rate - _dot(to_p, speed).to(lr)
        to_v = [b - lr.to(a) * a for a, b in zip(to_p, to_v, strict=True)]
        to_momentum = to_momentum + _dot(to_v, _values(v, resolution, start)).to(momentum)
        through_p, through_args = pull(tuple(to_v))
        to_p = [a + b for a, b in zip(to_p, through_p, strict=True)]
        to_args = [a + b for a, b in zip(to_args, through_args, strict=True)]
        to_v = [momentum.to(part) * part for part in to_v]
    full: list[Tensor | None] = [None] * len(args)
    for place, value in zip(moving, to_args, strict=True):
        full[place] = value
    return [*to_p, to_rate, to_momentum, *full]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum().double() for x, y in zip(a, b, strict=True)]).sum()
