"""The gradient rule of sparse quadratic programs: the KKT system on the active set, values on fixed patterns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._base.loop import can_read
from .._base.pattern import Pattern
from ..implicit.rule import Rule
from ..solvers.sparse_sample import ActiveSystem
from .qp_rule import warn_if_singular


class SparseQPRule(Rule):
    """The KKT system on the active set (IPM-18) with matrices as values on patterns, and its factorizations."""

    differentiable = [True] * 8 + [False] * 3

    def __init__(self, patterns: Sequence[Pattern], systems: Sequence[ActiveSystem | None]):
        self.patterns = patterns
        self.systems = systems

    def residual(self, x, args):
        x, y, *multipliers = x
        Q, p, G, h, A, b, lb, ub, *active = args
        on_Q, on_G, on_A = self.patterns
        Qx = 0.5 * (on_Q.mv(Q, x) + on_Q.transposed().mv(Q, x))
        rows = [on_G.mv(G, x) - h, lb - x if lb.shape[-1] else lb, x - ub if ub.shape[-1] else ub]
        return [
            Qx + p + on_A.transposed().mv(A, y) + self._constraints_transposed(G, lb, ub, multipliers),
            on_A.mv(A, x) - b,
            *(torch.where(*triple) for triple in zip(active, rows, multipliers, strict=True)),
        ]

    def solve_linear(self, x, args, rhs, transpose):
        G, lb, ub, active = args[2], args[6], args[7], args[8:]
        r_x, r_y, *r_z = rhs
        if not transpose:  # rows of inactive constraints read d_z = r_z, and d_z enters stationarity
            inactive = [torch.where(mask, 0.0, r) for mask, r in zip(active, r_z, strict=True)]
            r_x = r_x - self._constraints_transposed(G, lb, ub, inactive)
        d_x, d_y, *d_z = self._solve_active(r_x, r_y, *r_z)
        if transpose:
            rows = [self.patterns[1].mv(G, d_x), -d_x if lb.shape[-1] else lb, d_x if ub.shape[-1] else ub]
            inactive = [r - row for r, row in zip(r_z, rows, strict=True)]
        return [d_x, d_y, *(torch.where(*triple) for triple in zip(active, d_z, inactive, strict=True))]

    def _constraints_transposed(self, G, lb, ub, multipliers):
        """``G'z - z_lb + z_ub``."""
        z, z_lb, z_ub = multipliers
        total = self.patterns[1].transposed().mv(G, z)
        total = total - z_lb if lb.shape[-1] else total
        return total + z_ub if ub.shape[-1] else total

    def _solve_active(self, r_x: Tensor, *r: Tensor) -> list[Tensor]:
        """The symmetric system of each sample; zero for failed samples and inactive rows."""
        if not can_read(r_x):
            raise RuntimeError("solve_qp: torch.vmap cannot map the gradient of sparse programs; take a batch of them.")
        sizes, r_list = [part.shape[-1] for part in r], torch.cat(r, -1)
        d_x, d = torch.zeros_like(r_x, dtype=torch.float64), torch.zeros_like(r_list, dtype=torch.float64)
        error = r_x.new_zeros(len(r_x))
        for index, system in enumerate(self.systems):
            if system is not None:
                right = (part[index].double().numpy() for part in (r_x, r_list))
                *found, error[index] = system.solve(*right)
                d_x[index], d[index] = map(torch.from_numpy, found)
        warn_if_singular(error, r_x.dtype)
        return [d_x.to(r_x.dtype), *d.to(r_x.dtype).split(sizes, -1)]
