"""Conjugate gradients, for symmetric positive definite systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .correction import Correction, System
from .krylov import KrylovSolver, inner, none_of, ratio


class _State(NamedTuple):
    x: Tensor
    r: Tensor  # r - A x, updated
    p: Tensor  # search direction
    rz: Tensor  # r' M r
    stuck: Tensor


@dataclass(frozen=True)
class CG(KrylovSolver):
    """Conjugate gradients: ``A`` symmetric positive (or negative) definite, exact in N steps but for rounding.

    The preconditioner must be symmetric positive definite. A direction without curvature ends a sample unconverged.

    References: Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems" (1952).
    """

    def prepare(self, system: System) -> Callable[[Tensor, Tensor, int], Correction]:
        def step(at: _State) -> _State:
            image = system.matvec(at.p)
            curvature = inner(at.p, image)
            size = ratio(at.rz, curvature)
            r = at.r - size * image
            z = system.precondition(r)
            rz = inner(r, z)
            stuck = ((curvature == 0) | (at.rz == 0)).squeeze(-1)
            return _State(at.x + size * at.p, r, z + ratio(rz, at.rz) * at.p, rz, stuck)

        def correct(r: Tensor, target: Tensor, spent: int) -> Correction:
            z = system.precondition(r)
            start = _State(torch.zeros_like(r), r, z, inner(r, z), none_of(target))
            return self.run(step, start, target, self.budget(system, spent))

        return correct
