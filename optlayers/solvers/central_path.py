"""The point of the central path of a quadratic program at a given temperature: Newton's method from its solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import iterate
from .._base.numeric import matvec
from .._native import ops

TOLERANCE = 1e-9  # relative, of every equation
MAX_STEPS = 100
REMAIN = 0.005  # at least this part of a slack or multiplier is left by a step


class CentralPoint(NamedTuple):
    """Inequalities in one list ``[G; -I; I]`` of N rows, those of bounds only where there are bounds (CP-2)."""

    x: Tensor  # (B, n)
    y: Tensor  # (B, k)
    z: Tensor  # (B, N)
    s: Tensor  # (B, N), 1 where there is no inequality


class Rows(NamedTuple):
    """What each row of the list is: an inequality, a bound that fixes a variable, or absent."""

    G: Tensor  # (B, m, n)
    right: Tensor  # (B, N) right-hand sides, 0 at absent rows
    present: Tensor  # (B, N) bool: inequalities
    fixed: Tensor  # (B, N) bool: one row for each fixed variable
    sizes: list[int]

    def times(self, x: Tensor) -> Tensor:
        """``C x``."""
        _, lower, upper = self.sizes
        return torch.cat([matvec(self.G, x), -x[:, : x.shape[-1] * (lower > 0)], x[:, : x.shape[-1] * (upper > 0)]], -1)

    def transposed(self, v: Tensor) -> Tensor:
        """``C' v``."""
        dense, low, high = v.split(self.sizes, -1)
        total = matvec(self.G.mT, dense)
        total = total - low if low.shape[-1] else total
        return total + high if high.shape[-1] else total


def condensed(Q: Tensor, rows: Rows, weight: Tensor) -> Tensor:
    """``Q + C' diag(weight) C`` (CP-3)."""
    dense, low, high = weight.split(rows.sizes, -1)
    total = 0.5 * (Q + Q.mT) + rows.G.mT @ (dense.unsqueeze(-1) * rows.G)
    for diagonal in (low, high):
        total = total + torch.diag_embed(diagonal) if diagonal.shape[-1] else total
    return total


def solve_condensed(H: Tensor, A: Tensor, rows: Rows, r_x: Tensor, r_y: Tensor, r_row: Tensor) -> tuple[Tensor, ...]:
    """Solve for ``d_x, d_y`` and the multipliers of fixed variables, 0 elsewhere in the list; with the residual."""
    none = H.new_zeros(H.shape[0], 0)
    _, *fixed = rows.fixed.split(rows.sizes, -1)
    _, *r_bounds = r_row.split(rows.sizes, -1)
    system = [H, rows.G[:, :0], A, none.bool(), *fixed, r_x, r_y, none, *r_bounds]
    d_x, d_y, _, d_lb, d_ub, error = ops.qp_kkt(*system)
    return d_x, d_y, torch.cat([torch.zeros_like(r_row[:, : rows.sizes[0]]), d_lb, d_ub], -1), error


def central_point(
    data: Sequence[Tensor], rows: Rows, x: Tensor, y: Tensor, z: Tensor, temperature: float
) -> tuple[CentralPoint, Tensor]:
    """Solve (CP-2) for float64 data ``(B, ...)`` from a solution ``(x, y, z)``; also says which samples converged."""
    Q, p, _, _, A, b, _, _ = data
    mu = temperature

    def equations(at: CentralPoint) -> tuple[Tensor, ...]:
        x, y, z, s = at
        Qx, forces = 0.5 * (matvec(Q, x) + matvec(Q.mT, x)), rows.transposed(z) + matvec(A.mT, y)
        r_row = rows.times(x) - rows.right
        r_row = torch.where(rows.present, r_row + s, torch.where(rows.fixed, r_row, 0.0))
        return Qx + p + forces, matvec(A, x) - b, r_row, torch.where(rows.present, s * z - mu, 0.0)

    def step(at: CentralPoint) -> CentralPoint:
        x, y, z, s = at
        r_x, r_y, r_row, r_gap = equations(at)
        weight = torch.where(rows.present, z / s, 0.0)
        pull = torch.where(rows.present, weight * r_row - r_gap / s, 0.0)
        H = condensed(Q, rows, weight)
        d_x, d_y, d_fixed, _ = solve_condensed(H, A, rows, -r_x - rows.transposed(pull), -r_y, -r_row)
        moved = rows.times(d_x)
        d_s = torch.where(rows.present, -r_row - moved, 0.0)
        d_z = torch.where(rows.present, pull + weight * moved, d_fixed)
        shrink = torch.where(rows.present, torch.maximum(-d_s / s, -d_z / z), 0.0)
        length = (1 - REMAIN) / _largest(shrink.clamp(min=0)).clamp(min=1 - REMAIN)
        return CentralPoint(x + length * d_x, y + length * d_y, z + length * d_z, s + length * d_s)

    def converged(at: CentralPoint) -> Tensor:
        x, y, z, s = at
        r_x, r_y, r_row, r_gap = equations(at)
        terms = p, matvec(Q, x), matvec(A.mT, y), rows.transposed(z)
        forces = torch.cat([_largest(term) for term in terms], -1).amax(-1, keepdim=True)
        size = 1 + _largest(x)
        good = [r_x.abs() <= TOLERANCE * forces, r_y.abs() <= TOLERANCE * (_row_sizes(A) * size + b.abs())]
        good += [r_row.abs() <= TOLERANCE * (unit * size + s), r_gap.abs() <= TOLERANCE * mu]
        return torch.cat(good, -1).all(-1)

    unit = torch.cat([_row_sizes(rows.G), torch.ones_like(z[:, rows.sizes[0] :])], -1)
    slack = (rows.right - rows.times(x)).clamp(min=0)
    start = CentralPoint(x, y, *_smoothed_pair(z, slack, torch.where(unit > 0, unit, 1.0), mu))
    start = start._replace(
        z=torch.where(rows.present, start.z, torch.where(rows.fixed, z, 0.0)), s=torch.where(rows.present, start.s, 1.0)
    )
    end = iterate(step, start, converged, MAX_STEPS)
    return end.state, end.done


def _smoothed_pair(z: Tensor, s: Tensor, unit: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Positive ``z, s`` with ``s z = temperature`` near a complementary pair, `unit` being one of slack (CP-4)."""
    t = s / unit - z * unit
    root = (t.square() + 4 * temperature).sqrt()
    large = 0.5 * (t.abs() + root)
    small = temperature / large  # of the two roots the one that would suffer from cancellation
    s, z = torch.where(t > 0, large, small), torch.where(t > 0, small, large)
    return z / unit, s * unit


def _row_sizes(C: Tensor) -> Tensor:
    return C.abs().amax(-1) if C.shape[-2] else C[..., 0]


def _largest(v: Tensor) -> Tensor:
    return v.abs().amax(-1, keepdim=True) if v.shape[-1] else v.new_zeros(*v.shape[:-1], 1)
