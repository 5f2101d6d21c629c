r"""Gradients from values alone, for functions that have none: of the smoothed function ``E f(x + sigma z)``.

With ``z`` of zero mean and unit covariance, standard normal by default, the mean of ``weight * z`` over samples
estimates the gradient. The estimators differ in the weight, and thereby in variance and in how often ``f`` is called.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .._base import tree
from .once import underivable

Estimator = Callable[[Tensor, Callable[[float], Tensor], float], Tensor]


def naive(value: Tensor, at: Callable[[float], Tensor], sigma: float) -> Tensor:
    """``f(x + sigma z) / sigma``: one call a sample, and the largest variance."""
    return at(sigma) / sigma


def forward(value: Tensor, at: Callable[[float], Tensor], sigma: float) -> Tensor:
    """``(f(x + sigma z) - f(x)) / sigma``: one call a sample."""
    return (at(sigma) - value) / sigma


def antithetic(value: Tensor, at: Callable[[float], Tensor], sigma: float) -> Tensor:
    """``(f(x + sigma z) - f(x - sigma z)) / (2 sigma)``: two calls a sample; exact curvature does not disturb it."""
    return (at(sigma) - at(-sigma)) / (2 * sigma)


def zero_order(
    estimator: Estimator = antithetic,
    *,
    samples: int = 1,
    sigma: float = 1.0,
    argnums: int | Sequence[int] = 0,
    noise: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorate a function that returns a scalar: its value stays, its derivative becomes an estimate from values.

    Differentiable once, in both modes; a second derivative raises, since none is known. The function is called under
    ``no_grad``, once for its value and ``samples`` times as often as the estimator asks.

    Args:
        estimator: :func:`naive`, :func:`forward` or :func:`antithetic`, or a function of your own from ``f(x)``,
            ``at(step) = f(x + step * z)`` and `sigma` to the weight of ``z``.
        samples: how many ``z`` are averaged.
        sigma: the width of the smoothing.
        argnums: positions of the arguments, pytrees of floating tensors, that get a derivative.
        noise: ``noise(tensor)`` draws a ``z`` like the tensor.

    Raises:
        ValueError: fewer than one sample, or a `sigma` that is not positive; a function value that is no scalar.

    References: Nesterov and Spokoiny, "Random gradient-free minimization of convex functions" (2017).
    """
    if samples < 1 or not sigma > 0:
        raise ValueError(f"zero_order: samples is {samples} and sigma {sigma}; expected samples >= 1 and sigma > 0.")
    positions = [argnums] if isinstance(argnums, int) else list(argnums)

    def decorate(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(fn)
        def estimated(*args: Any, **kwargs: Any) -> Tensor:
            tensors, rebuild = tree.partition([args[position] for position in positions])

            def evaluate(values: Sequence[Tensor]) -> Tensor:
                full = list(args)
                for position, part in zip(positions, rebuild(values), strict=True):
                    full[position] = part
                value = fn(*full, **kwargs)
                if value.ndim > 0:
                    raise ValueError(
                        f"zero_order: the function returned shape {tuple(value.shape)}; expected a scalar."
                    )
                return value

            return _estimate(evaluate, tensors, estimator, samples, sigma, noise)

        return estimated

    return decorate


def _estimate(
    evaluate: Callable[[Sequence[Tensor]], Tensor],
    x: list[Tensor],
    estimator: Estimator,
    samples: int,
    sigma: float,
    noise: Callable[[Tensor], Tensor],
) -> Tensor:
    with torch.no_grad():
        center = [part.detach() for part in x]  # so that the function may call .numpy()
        value = evaluate(center)
        slopes = [torch.zeros_like(part) for part in center]
        for _ in range(samples):
            z = [noise(part) for part in center]

            def at(step: float, z: list[Tensor] = z) -> Tensor:
                return evaluate([part + step * direction for part, direction in zip(center, z, strict=True)])

            weight = estimator(value, at, sigma) / samples
            slopes = [slope + weight * direction for slope, direction in zip(slopes, z, strict=True)]
    return _Estimated.apply(len(x), value, *x, *slopes)


_SECOND = "zero_order: the derivative of an estimated derivative is not known; use it to first order only."


class _Estimated(torch.autograd.Function):
    """A value with given slopes in some tensors; how the slopes depend on them is not known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(count: int, value: Tensor, *tensors: Tensor):
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.count = inputs[0]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx, cotangent):
        return None, None, *[cotangent * slope for slope in _slopes(ctx)], *[None] * ctx.count

    @staticmethod
    def jvp(ctx, _count, _value, *tangents):
        pairs = zip(_slopes(ctx), tangents[: ctx.count], strict=True)
        return sum((slope * tangent).sum() for slope, tangent in pairs if tangent is not None)


def _slopes(ctx) -> list[Tensor]:
    x, slopes = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    return underivable(_SECOND, slopes, x)


class ZeroOrder(nn.Module):
    """A module whose output, a scalar, has an estimated derivative with respect to its parameters.

    Args:
        module: its ``forward`` returns a scalar, such as a loss; any of torch, numpy or a simulator may be inside.
        estimator, samples, sigma, noise: as in :func:`zero_order`.
    """

    def __init__(
        self,
        module: nn.Module,
        estimator: Estimator = antithetic,
        *,
        samples: int = 1,
        sigma: float = 1.0,
        noise: Callable[[Tensor], Tensor] = torch.randn_like,
    ):
        super().__init__()
        self.module = module
        self._decorate = zero_order(estimator, samples=samples, sigma=sigma, noise=noise)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns."""
        params = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        return self._decorate(lambda params: functional_call(self.module, params, args, kwargs))(params)
