"""Picard iteration: apply the map until it no longer moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .iterative import FixedPointSolver, Flat, relative


class _State(NamedTuple):
    x: Tensor
    image: Tensor  # fn(x)
    error: Tensor


@dataclass(frozen=True)
class Picard(FixedPointSolver):
    """``x <- x + damping (fn(x) - x)``; converges for a contraction, by its factor a step.

    A sample has converged if ``||fn(x) - x|| <= rtol (1 + ||x||)``.

    Args:
        damping: fraction of the step taken, in (0, 1].

    References: Banach (1922).
    """

    damping: float = 1.0

    def check(self, x: Tensor) -> None:
        super().check(x)
        if not 0 < self.damping <= 1:
            raise ValueError(f"Picard: damping is {self.damping}; expected a number in (0, 1].")

    def init(self, fn: Flat, x: Tensor) -> _State:
        image = fn(x)
        return _State(x, image, relative(image - x, x))

    def watch(self, state: _State) -> Tensor:
        return state.error  # made of the lengths of all the rest

    def step(self, fn: Flat, state: _State) -> _State:
        if self.damping == 1.0:
            return self.init(fn, state.image)
        return self.init(fn, state.x + self.damping * (state.image - state.x))
