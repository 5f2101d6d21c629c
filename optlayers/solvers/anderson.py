"""Anderson acceleration of fixed-point iterations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .iterative import FixedPointSolver, Flat, relative
from .memory import combine, empty, newest, products, put


class _State(NamedTuple):
    x: Tensor
    image: Tensor  # fn(x)
    residuals: Tensor  # (*batch, memory, N) differences of fn(x) - x, each scaled to length 1
    images: Tensor  # (*batch, memory, N) differences of fn(x), scaled along
    count: Tensor  # (*batch) int64: differences taken
    error: Tensor


@dataclass(frozen=True)
class Anderson(FixedPointSolver):
    r"""Extrapolate from the last steps to where, if the map were affine, it would not move.

    .. math:: x_{k+1} = f(x_k) - \Delta_f \gamma, \qquad
              \gamma = \arg\min_\gamma \|f(x_k) - x_k - \Delta_r \gamma\|^2 + \text{ridge}\,\|\gamma\|^2

    Columns of :math:`\Delta_f, \Delta_r` are differences of ``f(x)`` and of ``f(x) - x`` between consecutive steps,
    scaled to length 1 in :math:`\Delta_r`: differences shrink as the iteration converges, and an absolute ridge, or
    one relative to the oldest of them, would shut out the newest and stall. Converges where the map is no contraction
    as well, a rotation for one. A sample has converged if ``||fn(x) - x|| <= rtol (1 + ||x||)``.

    Args:
        memory: number of differences.
        ridge: relative to the mean diagonal entry of the Gram matrix, which is 1; at least some rounding errors.

    References: Anderson, "Iterative procedures for nonlinear integral equations" (1965); Walker and Ni, "Anderson
        acceleration for fixed-point iterations" (2011).
    """

    memory: int = 5
    ridge: float = 1e-8

    def check(self, x: Tensor) -> None:
        super().check(x)
        if self.memory < 1:
            raise ValueError(f"Anderson: memory is {self.memory}; expected at least 1.")

    def init(self, fn: Flat, x: Tensor) -> _State:
        image = fn(x)
        error = relative(image - x, x)
        residuals, images = empty(x, self.memory), empty(x, self.memory)
        return _State(x, image, residuals, images, torch.zeros_like(error, dtype=torch.int64), error)

    def step(self, fn: Flat, state: _State) -> _State:
        residual = state.image - state.x
        gram = state.residuals @ state.residuals.mT
        # An empty slot has a row of zeros: with the ridge its weight comes out as zero.
        ridge = max(self.ridge, 10 * torch.finfo(gram.dtype).eps)
        gram = gram + ridge * torch.eye(self.memory, dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve_ex(gram, products(state.residuals, residual))[0]
        x = state.image - combine(state.images, weights)

        image = fn(x)
        change = image - x - residual
        length = torch.linalg.vector_norm(change, dim=-1, keepdim=True)
        scale = 1 / torch.where(length > 0, length, 1.0)
        slot = newest(state.count, self.memory)
        return _State(
            x,
            image,
            put(state.residuals, slot, scale * change),
            put(state.images, slot, scale * (image - state.image)),
            state.count + 1,
            relative(image - x, x),
        )
