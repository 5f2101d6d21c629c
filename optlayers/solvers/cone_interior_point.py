"""Cone programs by the interior-point method of this library: a batch on one pattern, analysed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .._base.pattern import Pattern
from .._native import available, cone_ops, reference_cone
from .conic import ConePoint, ConeProgram, Cones

ACCURACY = 1e-6  # the tolerance of the iteration over that of the final point
CHUNK = 1 << 24  # entries of the linear systems that the method in torch forms at a time


@dataclass(frozen=True)
class ConeInteriorPoint:
    """A primal-dual interior-point method on the homogeneous embedding, for a batch of cone programs at a time.

    Infeasible and unbounded samples are certified, each sample stops on its own, and no result depends on what else is
    in the batch. The iteration goes on until the residuals are a millionth of `eps`, or as small as rounding allows:
    its answer is where Newton's method starts.

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
        """Solve a batch of cone programs, the samples on ``torch.get_num_threads()`` threads."""
        solve = by_kernel if available("cpu") else by_torch
        return solve(program, ACCURACY * self.eps, self.max_steps)


def by_kernel(program: ConeProgram, eps: float, max_steps: int) -> ConePoint:
    """The compiled method, on sparse matrices."""
    cones, count = program.cones, program.count
    plan, exponents = _plan(cones, program.on_P, program.on_A), torch.tensor(cones.power, dtype=torch.float64)
    P, q, A, b = (torch.from_numpy(part) for part in (program.P, program.q, program.A, program.b))
    found = cone_ops.cone_solve(plan, exponents, P, q, A, b, eps, max_steps)
    return ConePoint(*(part.expand(count, *part.shape[1:]).numpy() for part in found))


def by_torch(program: ConeProgram, eps: float, max_steps: int) -> ConePoint:
    """The same method in torch, on dense matrices."""
    cones, count = program.cones, program.count
    P, q, A, b = (
        part.expand(count, *part.shape[1:])
        for part in (
            _dense(program.on_P, program.P),
            torch.from_numpy(program.q),
            _dense(program.on_A, program.A),
            torch.from_numpy(program.b),
        )
    )
    size = max(1, CHUNK // max(1, q.shape[-1] + b.shape[-1]) ** 2)
    parts = [
        reference_cone.cone_solve(
            P[start : start + size],
            q[start : start + size],
            A[start : start + size],
            b[start : start + size],
            cones.zero,
            cones.nonneg,
            cones.second_order,
            cones.psd,
            cones.exponential,
            cones.power,
            eps,
            max_steps,
        )
        for start in range(0, count, size)
    ]
    return ConePoint(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))


@lru_cache(maxsize=64)
def _plan(cones: Cones, on_P: Pattern, on_A: Pattern) -> Tensor:
    """The plan of two patterns, which are told apart by identity: layers and structures keep theirs."""
    indices = [np.asarray(index, np.int32).tobytes() for on in (on_P, on_A) for index in (on.rows, on.cols)]
    return _plan_of_indices(cones, on_A.shape[1], *indices)


@lru_cache(maxsize=64)
def _plan_of_indices(cones: Cones, n: int, *indices: bytes) -> Tensor:
    P_rows, P_cols, A_rows, A_cols = (np.frombuffer(index, np.int32) for index in indices)
    return cone_ops.cone_plan(
        n,
        (P_rows, P_cols),
        (A_rows, A_cols),
        cones.zero,
        cones.nonneg,
        cones.second_order,
        cones.psd,
        cones.exponential,
        len(cones.power),
    )


def _dense(pattern: Pattern, values: np.ndarray) -> Tensor:
    rows, cols = (torch.from_numpy(index) for index in (pattern.rows, pattern.cols))
    flat = torch.zeros(len(values), pattern.shape[0] * pattern.shape[1], dtype=torch.float64)
    return flat.index_add(1, rows * pattern.shape[1] + cols, torch.from_numpy(values)).unflatten(1, pattern.shape)
