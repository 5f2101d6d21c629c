"""Cone programs by the interior-point method of this library: a batch on one pattern, analysed once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._base.pattern import Pattern
from .._native.reference_cone import cone_solve
from .conic import ConePoint, ConeProgram

CHUNK = 1 << 24  # entries of the linear systems that the method in torch forms at a time


@dataclass(frozen=True)
class ConeInteriorPoint:
    """A primal-dual interior-point method on the homogeneous embedding, for a batch of cone programs at a time.

    Infeasible and unbounded samples are certified, each sample stops on its own, and no result depends on what else is
    in the batch. Its answer is where Newton's method starts, so its own tolerance is a
    millionth of `eps`, and it ends where rounding does not let it come nearer.

    Args:
        eps: what the relative residuals of the final point must not exceed for a sample to count as solved.
        max_steps: limit on the iterations.

    References: Goulart and Chen, "Clarabel: an interior-point solver for conic programs with quadratic objectives"
        (2024); Dahl and Andersen, "A primal-dual interior-point algorithm for nonsymmetric exponential-cone
        optimization" (2022).
    """

    eps: float = 1e-6
    max_steps: int = 100

    def solve_cones(self, program: ConeProgram) -> ConePoint:
        """Solve a batch of cone programs."""
        P, q, A, b = (torch.from_numpy(part) for part in (program.P, program.q, program.A, program.b))
        data = [_dense(program.on_P, P), q, _dense(program.on_A, A), b]
        data = [part.expand(program.count, *part.shape[1:]) for part in data]
        size = max(1, CHUNK // max(1, sum(program.on_A.shape)) ** 2)
        parts = [self._by_torch(program, chunk) for chunk in zip(*(part.split(size) for part in data), strict=True)]
        return ConePoint(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))

    def _by_torch(self, program: ConeProgram, data: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        cones = program.cones
        sizes = (cones.zero, cones.nonneg, cones.second_order, cones.psd, cones.exponential, cones.power)
        return cone_solve(*data, *sizes, 1e-6 * self.eps, self.max_steps)


def _dense(pattern: Pattern, values: Tensor) -> Tensor:
    rows, cols = (torch.from_numpy(index) for index in (pattern.rows, pattern.cols))
    flat = values.new_zeros(len(values), pattern.shape[0] * pattern.shape[1])
    return flat.index_add(1, rows * pattern.shape[1] + cols, values).unflatten(1, pattern.shape)
