"""The linear system of the cone program engine, dense: factored with a regularization, refined without.

Equations (CIP-n) stand in docs/theory/cone_interior_point.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._base.numeric import matvec
from .._base.threads import one_thread
from .reference_cone_data import Program
from .reference_cone_symmetric import Cone, Scaling

REGULARIZATION = 1e-8
EXACT = 1e-13  # a residual relative to the right-hand side
REFINEMENTS = 10
PAYS = 5.0  # factor by which a refinement must lower the residual to be followed by another


class System:
    """K of (CIP-6); without scalings that of the start (CIP-22), whose H is one."""

    def __init__(self, program: Program, cones: Sequence[Cone], scalings: Sequence[Scaling] | None):
        P, A = program.P, program.A
        m, self.n = A.shape[-2:]
        self.K = P.new_zeros(len(P), self.n + m, self.n + m)
        self.K[:, : self.n, : self.n], self.K[:, self.n :, : self.n] = P, A
        self.K[:, : self.n, self.n :] = A.mT
        for i, cone in enumerate(cones):
            rows = self.n + cone.index
            if scalings is None:
                self.K[:, rows, rows] = -float(cone.degree > 0)
            else:
                self.K[:, rows[:, :, None], rows[:, None, :]] = -scalings[i].H
        shift = P.new_full((self.n + m,), REGULARIZATION)
        shift[self.n :] *= -1
        with one_thread(self.K):
            self.factor = torch.linalg.lu_factor_ex(self.K + torch.diag(shift))

    def solve(self, r_x: Tensor, r_z: Tensor) -> tuple[Tensor, Tensor]:
        rhs = torch.cat([r_x, r_z], -1)
        target = EXACT * _norm(rhs)
        best = self._substitute(rhs)
        r = rhs - matvec(self.K, best)
        size = _norm(r)
        going = torch.ones_like(size, dtype=torch.bool)
        for _ in range(REFINEMENTS):
            going = going & (size > target)
            if not going.any():
                break
            trial = best + self._substitute(r)
            trial_r = rhs - matvec(self.K, trial)
            now = _norm(trial_r)
            better = going & (now < size)
            going = better & (PAYS * now < size)
            best, r = torch.where(better, trial, best), torch.where(better, trial_r, r)
            size = torch.where(better, now, size)
        return best[:, : self.n], best[:, self.n :]

    def _substitute(self, rhs: Tensor) -> Tensor:
        lu, pivots, _ = self.factor
        return torch.linalg.lu_solve(lu, pivots, rhs[..., None])[..., 0]


def _norm(v: Tensor) -> Tensor:
    return v.abs().amax(-1, keepdim=True) if v.shape[-1] else v.new_zeros(len(v), 1)
