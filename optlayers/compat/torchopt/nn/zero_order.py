"""TorchOpt's zero-order derivatives: its call signatures on :func:`optlayers.optim.zero_order`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .... import optim
from ....optim.zero_order import Estimator
from ..typing import Samplable, SampleFunc
from .stateless import reparametrize

Method = Literal["naive", "forward", "antithetic"]

_ESTIMATORS: dict[str, Estimator] = {
    "naive": optim.naive,
    "forward": optim.forward,
    "antithetic": optim.antithetic,
}


def zero_order(
    distribution: SampleFunc | Samplable,
    method: Method = "naive",
    argnums: int | tuple[int, ...] = (0,),
    num_samples: int = 1,
    sigma: float = 1.0,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """:func:`optlayers.optim.zero_order`: the derivative of a function that returns a scalar, estimated from values.

    Args:
        distribution: draws the perturbations: an object with ``sample(sample_shape)``, or a function of the shape.
        method: how they become a derivative.
        argnums: positions of the arguments, pytrees of tensors, that get one.
        num_samples: how many perturbations are averaged.
        sigma: their size.

    Raises:
        TypeError: a `distribution` that cannot draw.
        ValueError: another `method`.
    """
    if method not in _ESTIMATORS:
        raise ValueError(f"zero_order: method is {method!r}; expected one of {list(_ESTIMATORS)}.")
    draw = distribution if callable(distribution) else getattr(distribution, "sample", None)
    if not callable(draw):
        raise TypeError(
            f"zero_order: distribution is a {type(distribution).__name__}; expected an object with sample(shape), or "
            "a function of the shape."
        )

    def noise(like: Tensor) -> Tensor:
        return torch.as_tensor(draw(like.shape)).to(like)

    return optim.zero_order(_ESTIMATORS[method], samples=num_samples, sigma=sigma, argnums=argnums, noise=noise)


class ZeroOrderGradientModule(nn.Module):
    """A module whose ``forward``, a scalar, has an estimated derivative with respect to its parameters.

    A subclass writes ``forward`` and ``sample(sample_shape)``, which draws perturbations.

    Class options:
        method, num_samples, sigma: as in :func:`~optlayers.compat.torchopt.diff.zero_order.zero_order`.
    """

    def __init_subclass__(
        cls, method: Method = "naive", num_samples: int = 1, sigma: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            cls.forward = _estimated(cls.__dict__["forward"], method, num_samples, sigma)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Perturbations of this shape; to be written by the subclass."""
        raise NotImplementedError(f"{type(self).__name__}.sample: expected a method that draws perturbations.")


def _estimated(forward: Callable[..., Tensor], method: Method, num_samples: int, sigma: float) -> Callable[..., Tensor]:
    @functools.wraps(forward)
    def estimated(self: ZeroOrderGradientModule, *args: Any, **kwargs: Any) -> Tensor:
        def of_parameters(params: dict[str, Tensor]) -> Tensor:
            with reparametrize(self, params):
                return forward(self, *args, **kwargs)

        decorate = zero_order(self.sample, method, 0, num_samples, sigma)
        return decorate(of_parameters)({name: p for name, p in self.named_parameters() if p.requires_grad})

    return estimated
