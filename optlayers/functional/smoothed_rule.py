"""The derivative of a quadratic program at a temperature: that of its central path, where the solution itself jumps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from .._base.loop import can_read
from .._base.numeric import matvec
from ..implicit import Smoothed
from ..implicit.rule import Rule, attach, untracked
from ..implicit.tracking import recording
from ..linear_solve import ConvergenceWarning
from ..solvers.central_path import CentralPoint, Rows, central_point, condensed, solve_condensed
from .qp_data import OWN_DIMS, Batch
from .qp_rule import constraints_transposed, warn_if_singular


class SmoothedRule(Rule):
    """The KKT conditions with ``s z = temperature`` (CP-2); ``x = (x, y, z, z_lb, z_ub, s)``.

    The arguments are the data, each in its own shape, then masks ``(*batch, rows)`` over the rows of G, of lower and of
    upper bounds: which are inequalities (three), which bounds fix a variable (two).
    """

    differentiable = [True] * 8 + [False] * 5

    def __init__(self, batch: Batch, temperature: float):
        self.batch = batch
        self.temperature = temperature

    def residual(self, x, args):
        x, y, z, z_lb, z_ub, s = x
        Q, p, G, h, A, b, lb, ub, in_G, in_lb, in_ub, fixed_lb, fixed_ub = args
        Qx = 0.5 * (matvec(Q, x) + matvec(Q.mT, x))
        return [
            Qx + p + matvec(A.mT, y) + constraints_transposed(G, z, z_lb, z_ub),
            matvec(A, x) - b,
            self._gap(z, s, in_G),
            torch.where(fixed_lb, lb - x, self._gap(z_lb, x - _finite(lb, in_lb), in_lb)) if lb.shape[-1] else z_lb,
            torch.where(fixed_ub, x - ub, self._gap(z_ub, _finite(ub, in_ub) - x, in_ub)) if ub.shape[-1] else z_ub,
            s + matvec(G, x) - h,
        ]

    def _gap(self, z: Tensor, s: Tensor, present: Tensor) -> Tensor:
        return torch.where(present, s, 1.0) * z - self.temperature * present

    def solve_linear(self, x, args, rhs, transpose):
        """(CP-5): the condensed system of a Newton step, and what it was condensed from."""
        at, rows, Q, A = self._flat(x, args)
        parts = self.batch._replace(flat=False).flatten(rhs, (1,) * 6)
        r_x, r_y, r_s = (t.double() for t in (parts[0], parts[1], parts[5]))
        r_z = torch.cat(parts[2:5], -1).double()
        r_s = torch.cat([r_s, torch.zeros_like(r_z[:, r_s.shape[-1] :])], -1)  # bounds have no slack of their own
        z, s = torch.where(rows.present, at.z, 0.0), at.s
        r_free = torch.where(rows.fixed, 0.0, r_z)
        weight = z / s
        if transpose:
            pull = torch.where(rows.present, z * r_free / s, 0.0) - r_s
        else:
            pull = -(r_free - z * r_s) / s
        d_x, d_y, d_fixed, error = solve_condensed(
            condensed(Q, rows, weight), A, rows, r_x + rows.transposed(pull), r_y, torch.where(rows.fixed, r_z, 0.0)
        )
        warn_if_singular(error, parts[0].dtype)
        moved = rows.times(d_x)
        if transpose:
            d_z = (r_free - moved) / s
            d_s = r_s - z * d_z
        else:
            d_s = r_s - moved
            d_z = (r_free - z * d_s) / s
        d_z = torch.where(rows.fixed, d_fixed, d_z)
        d = [d_x, d_y, *d_z.split(rows.sizes, -1), d_s[:, : rows.sizes[0]]]
        return list(self.batch.unflatten([t.to(parts[0].dtype) for t in d]))

    def _flat(self, x, args) -> tuple[CentralPoint, Rows, Tensor, Tensor]:
        """The point and the rows in the layout of the solver."""
        batch = self.batch._replace(flat=False)
        x, y, *z, _ = (t.double() for t in batch.flatten(x, (1,) * 6))
        data = [t.double() for t in batch.flatten(args[:8], OWN_DIMS)]
        rows, z = _rows(data, batch.flatten(args[8:], (1,) * 5)), torch.cat(z, -1)
        # Not x - lb and so on: in float32 the multiplier is known better than the difference.
        slack = torch.where(rows.present, self.temperature / z, 1.0)
        return CentralPoint(x, y, z, slack), rows, data[0], data[4]


@torch.compiler.disable  # traced, the loop of Newton steps would be unrolled: minutes to compile
def attach_smoothed(
    adjoint: Smoothed, batch: Batch, data: Sequence[Tensor], solution: Sequence[Tensor], solved: Tensor | None
) -> list[Tensor]:
    """The exact `solution` with the derivative of the central path; samples that are not `solved` have no rows."""
    if not recording():
        return list(solution)
    h, lb, ub = data[3], data[6], data[7]
    present = [t.isfinite() if solved is None else t.isfinite() & solved.unsqueeze(-1) for t in (h, lb, ub)]
    fixed = [torch.zeros_like(t, dtype=torch.bool) for t in (lb, ub)]
    if lb.shape[-1] and ub.shape[-1]:  # its row is the bound that its multiplier belongs to
        equal, below = lb == ub, solution[3] > 0
        fixed = [equal & below, equal & ~below]
        present[1:] = [mask & ~equal for mask in present[1:]]
    masks = [*present, *fixed]

    def solve(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        flat = batch._replace(flat=False)
        program = [t.double() for t in flat.flatten(tensors[:8], OWN_DIMS)]
        x, y, *z = (t.double() for t in flat.flatten(tensors[8:13], (1,) * 5))
        rows = _rows(program, flat.flatten(tensors[13:], (1,) * 5))
        point, converged = central_point(program, rows, x, y, torch.cat(z, -1), temperature)
        _warn_if_off_path(converged, temperature)
        parts = point.x, point.y, *point.z.split(rows.sizes, -1), point.s[:, : rows.sizes[0]]
        return flat.unflatten([t.to(data[0].dtype) for t in parts])

    temperature = adjoint.temperature
    point = untracked(solve, [*data, *solution[:5], *masks])
    attached = attach(SmoothedRule(batch, temperature), point, [*data, *masks])
    return [exact + (on_path - value) for exact, on_path, value in zip(solution, attached, point, strict=True)]


def _rows(data: Sequence[Tensor], masks: Sequence[Tensor]) -> Rows:
    _, _, G, h, _, _, lb, ub = data
    *present, fixed_lb, fixed_ub = masks
    present, fixed = torch.cat(present, -1), torch.cat([torch.zeros_like(present[0]), fixed_lb, fixed_ub], -1)
    right = torch.where(present | fixed, torch.cat([h, -lb, ub], -1), 0.0)
    return Rows(G, right, present, fixed, [t.shape[-1] for t in (h, lb, ub)])


def _warn_if_off_path(converged: Tensor, temperature: float) -> None:
    if not can_read(converged) or converged.all():
        return
    samples = (~converged).nonzero().flatten().tolist()
    warnings.warn(
        f"solve_qp: no point of the central path at temperature {temperature:g} was found for samples {samples[:10]}: "
        f"their inequalities have no strictly feasible point, or their solutions are unbounded. The derivative is that "
        f"of the last point. State equalities as Ax = b, add bounds, or choose another temperature.",
        ConvergenceWarning,
        stacklevel=2,
    )


def _finite(bound: Tensor, present: Tensor) -> Tensor:
    return torch.where(present, bound, 0.0)
