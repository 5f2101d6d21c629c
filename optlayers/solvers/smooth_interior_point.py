"""The primal-dual interior-point method for smooth convex programs given as functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import choose, iterate, surely_none
from .._base.numeric import matvec
from .._base.status import Status
from .active_set import KKTPoint, concave, conditions, largest, polish
from .derivatives import Values, first, second
from .infeasibility import CERTAIN, diverging, excluded_radius, explain, least_violation
from .newton_kkt import NewtonKKT

HALVINGS = 24
SHORT_OF_BOUNDARY = 0.995
LAG = 0.1
SETTLED = 1e-4  # promised decrease of the objective, relative, below which it has settled
SHORT, PATIENCE = 0.02, 6  # after so many steps in a row of which less than this could be taken, look for the reason


Residuals = tuple[Tensor, Tensor, Tensor]  # stationarity, equalities, inequalities with their slacks


class ProgramSolution(NamedTuple):
    """What the solver returns, in the user's units; see :class:`~optlayers.solvers.active_set.KKTPoint`."""

    x: Tensor  # (B, n)
    y: Tensor  # (B, k)
    z: Tensor  # (B, m)
    active: Tensor  # (B, m) bool
    hessian: Tensor  # (B, n, n) of the Lagrangian
    jacobian: Tensor  # (B, k + m, n) of the constraints
    inverse: Tensor  # (B, N, N) of the KKT matrix on the active set, N = n + k + m
    status: Tensor  # (B) int64
    iterations: Tensor  # (B) int64
    residuals: Tensor  # (B, 3)


class State(NamedTuple):
    """An iterate, with the derivatives there."""

    x: Tensor
    s: Tensor
    y: Tensor
    z: Tensor
    c: Tensor  # (B, 1 + k + m): objective, equalities, inequalities
    J: Tensor  # (B, 1 + k + m, n)
    H: Tensor  # (B, n, n)
    dx: Tensor  # the direction of the last Newton step, taken or not
    promise: Tensor  # (B) the decrease of the objective that the last Newton step promised
    short: Tensor  # (B) how many short steps the last ones were
    lost: Tensor  # (B) bool: nothing more to be had from here

    @property
    def point(self) -> KKTPoint:
        return KKTPoint(self.x, self.y, self.z, self.c, self.J, self.H)


@dataclass(frozen=True)
class SmoothInteriorPoint:
    """Newton's method on the perturbed KKT conditions of a smooth convex program, with a search along the step.

    The start may violate the constraints, but objective and constraints must be finite there (an entropy wants a
    positive start); the iterates then stay where they are finite. Convexity is not assumed but checked, at the
    solution. When the iteration has converged, Newton steps on the active set take it to rounding.

    Args:
        rtol: tolerance on the KKT residuals, relative to the terms they are made of. None: 1e-9 in float64, 2e-5 in
            float32.
        max_steps: limit on the Newton steps per sample; one that crept, and is not infeasible, may take as many again.

    References: Boyd and Vandenberghe, "Convex optimization", 11.7 (2004); Mehrotra (1992). See the page on smooth
        convex programs, (IPC-1) onwards.
    """

    rtol: float | None = None
    max_steps: int = 100

    def tolerance(self, dtype: torch.dtype) -> float:
        """`rtol`, or the default of the dtype."""
        return self.rtol if self.rtol is not None else (1e-9 if dtype == torch.float64 else 2e-5)

    def __call__(self, values: Values, constraints: Values, init: Tensor, k: int) -> ProgramSolution:
        """Solve a batch of programs whose functions are stacked.

        Args:
            values: ``(B, n)`` to ``(B, 1 + k + m)``: the objective, ``k`` equalities, ``m`` inequalities.
            constraints: ``(B, n)`` to ``(B, k + m)``: the last of these, where the objective need not exist.
            init: ``(B, n)``.
        """
        tol = self.tolerance(init.dtype)
        scaled, scale = _scaled(values, init, k)
        rows = lambda x: scale[:, 1:] * constraints(x)  # noqa: E731
        start = _start(scaled, init, k)
        valid = torch.cat([start.c, start.J.flatten(1), start.H.flatten(1)], -1).isfinite().all(-1)

        def ended(at: State) -> Tensor:
            """(IPC-8); where slack and multiplier both vanish, their product does so first."""
            primal, dual, complementarity = conditions(at.point, at.s, k).unbind(-1)
            vanished = largest(at.s * at.z) <= 1e-3 * tol
            decrement = at.promise / (1 + at.c[:, 0].abs())
            met = (dual <= tol) & (vanished | (complementarity <= tol)) & (decrement <= SETTLED)
            exhausted = vanished & (decrement <= torch.finfo(init.dtype).eps)
            return at.lost | ((primal <= tol) & (met | exhausted))

        end = iterate(lambda at: _step(scaled, at, k), start, ended, self.max_steps)
        at: State = end.state
        steps, creeping = end.steps, at.short >= PATIENCE
        if not surely_none(creeping):  # it takes its time, or there is nowhere to go
            hopeless = excluded_radius(least_violation(rows, at.point, creeping, k), k) > CERTAIN
            on = creeping & ~hopeless
            resumed = at._replace(lost=at.lost & ~on, short=torch.where(on, -1.0 * self.max_steps, at.short))
            end = iterate(lambda at: _step(scaled, at, k), resumed, ended, self.max_steps)
            at, steps = end.state, steps + end.steps
        near = conditions(at.point, at.s, k).amax(-1) <= torch.finfo(init.dtype).eps ** (1 / 3)
        near = near & (at.promise <= SETTLED * (1 + at.c[:, 0].abs()))
        point, active, inverse = polish(scaled, at.point, near, k)
        residuals = conditions(point, point.slack(k), k)
        solved = near & (residuals.amax(-1) <= tol)
        status = torch.where(end.failed | end.done, int(Status.NUMERICAL_ERROR), int(Status.MAX_STEPS))
        status = torch.where(solved, int(Status.SOLVED), status)
        if not surely_none(~solved & valid):
            status, point = explain(scaled, rows, point, init, at.dx, status, k)
        status = torch.where(solved & concave(point, active, k), int(Status.INVALID_INPUT), status)
        status = torch.where(valid, status, int(Status.INVALID_INPUT))
        parts = _unscaled(point, active, inverse, scale, k)
        return ProgramSolution(**parts, status=status, iterations=steps, residuals=residuals)


def _step(values: Values, at: State, k: int) -> State:
    x, s, y, z, c, J, H = at[:7]
    r = _residuals(c, matvec(J.mT, _weight(y, z)), s, k)
    system = NewtonKKT.build(H, J[:, 1 : 1 + k], J[:, 1 + k :], s, z)  # (IPC-4)

    def toward(target: Tensor, correction: Tensor) -> tuple[Tensor, ...]:
        """The step, the part of it that stays inside the boundary, and the merit that it should lower."""
        step = system.solve(*r, s * z - target + correction, s, z)
        alpha = (SHORT_OF_BOUNDARY * torch.minimum(_boundary(s, step[1]), _boundary(z, step[3]))).clamp(max=1)
        return *step, alpha, target

    def moved(dx: Tensor, ds: Tensor, dy: Tensor, dz: Tensor, alpha: Tensor, _) -> tuple[Tensor, ...]:
        return x + alpha * dx, s + alpha * ds, y + alpha * dy, z + alpha * dz

    def acceptable(c: Tensor, gradient: Tensor, s1: Tensor, z1: Tensor, alpha: Tensor, target: Tensor) -> Tensor:
        """(IPC-7); False outside of the domain."""
        inside = c.isfinite().all(-1)  # the logarithm of a negative number has a gradient
        before, after = _merit(r, s * z - target), _merit(_residuals(c, gradient, s1, k), s1 * z1 - target)
        return inside & (after <= (1 - 1e-3 * alpha.squeeze(-1)) * before)

    move = toward(*_predicted(system, r, s, z))
    x1, s1, y1, z1 = moved(*move)
    # Most steps are acceptable as they are, and then the derivatives are at hand already.
    c1, J1, H1 = second(values, x1, _weight(y1, z1))
    rejected = ~acceptable(c1, matvec(J1.mT, _weight(y1, z1)), s1, z1, *move[4:])
    if not surely_none(rejected):
        # Newton's own direction lowers the merit, if the step is short enough; the corrected one need not.
        move = choose(rejected, toward(torch.maximum(0.5 * _mean(s * z), _floor(r)), torch.zeros_like(s)), move)
        for _ in range(HALVINGS):
            x1, s1, y1, z1 = moved(*move)
            c1, gradient = first(values, x1, _weight(y1, z1))
            rejected = rejected & ~acceptable(c1, gradient, s1, z1, *move[4:])
            if surely_none(rejected):
                break
            move = (*move[:4], torch.where(rejected.unsqueeze(-1), 0.5 * move[4], move[4]), move[5])
        c1, J1, H1 = second(values, x1, _weight(y1, z1))
    promise = (r[0] * move[0]).sum(-1).abs()
    short = torch.where(move[4].squeeze(-1) < SHORT, at.short + 1, 0.0)
    lost = rejected | (short >= PATIENCE) | diverging(KKTPoint(x1, y1, z1, c1, J1, H1), k)
    return State(x1, s1, y1, z1, c1, J1, H1, move[0], promise, short, lost)


def _predicted(system: NewtonKKT, r: Residuals, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """(IPC-6) Mehrotra's centering and second-order correction, from the step that aims at complementarity itself."""
    mu = _mean(s * z)
    if s.shape[-1] == 0:
        return mu, s
    _, ds, _, dz = system.solve(*r, s * z, s, z)
    alpha = torch.minimum(_boundary(s, ds), _boundary(z, dz)).clamp(max=1)
    ahead = _mean((s + alpha * ds) * (z + alpha * dz))
    return torch.maximum(mu * (ahead / mu).clamp(max=1) ** 3, _floor(r)), ds * dz


def _floor(r: Residuals) -> Tensor:
    """(IPC-6) Complementarity must not run ahead of the other conditions: its walls would stop every later step."""
    return LAG * largest(torch.cat(r, -1)).unsqueeze(-1)


def _start(values: Values, init: Tensor, k: int) -> State:
    c = values(init)
    y, g = torch.zeros_like(c[:, 1 : 1 + k]), c[:, 1 + k :]
    s, z = (-g).clamp(min=1), g.clamp(min=1)  # by components: a remote constraint pushes no other away
    c, J, H = second(values, init, _weight(y, z))
    promise = torch.full_like(c[:, 0], 1 / torch.finfo(c.dtype).eps)
    return State(init, s, y, z, c, J, H, torch.zeros_like(init), promise, 0 * promise, promise < 0)


def _scaled(values: Values, init: Tensor, k: int) -> tuple[Values, Tensor]:
    """The program in units in which its first derivatives are about one at the start (IPC-2), and the units."""
    c = values(init)
    objective_only = torch.zeros_like(c)
    objective_only[:, 0] = 1.0
    c, J, H = second(values, init, objective_only)
    size = J.abs().amax(-1)
    size = torch.where(size > 1e-6 * c.abs(), size, c.abs())  # the square of a norm has no slope at zero
    size[:, 0] = torch.maximum(J[:, 0].abs().amax(-1), H.flatten(1).abs().amax(-1))
    scale = torch.exp2(torch.round(-torch.log2(torch.where((size > 0) & size.isfinite(), size, 1.0))))
    return lambda x: scale * values(x), scale


def _unscaled(point: KKTPoint, active: Tensor, inverse: Tensor, scale: Tensor, k: int) -> dict[str, Tensor]:
    """The point and its KKT matrix in the user's units: ``E K E`` is the scaled one, with ``E`` diagonal."""
    cost, row = scale[:, :1], scale[:, 1:]
    units = torch.cat([cost.sqrt().expand_as(point.x), row / cost.sqrt()], -1)
    return {
        "x": point.x,
        "y": row[:, :k] * point.y / cost,
        "z": row[:, k:] * point.z / cost,
        "active": active,
        "hessian": point.H / cost.unsqueeze(-1),
        "jacobian": point.J[:, 1:] / row.unsqueeze(-1),
        "inverse": units.unsqueeze(-1) * inverse * units.unsqueeze(-2),
    }


def _residuals(c: Tensor, gradient: Tensor, s: Tensor, k: int) -> Residuals:
    """Stationarity, equalities, inequalities with their slack (IPC-3)."""
    return gradient, c[:, 1 : 1 + k], c[:, 1 + k :] + s


def _merit(r: Residuals, complementarity: Tensor) -> Tensor:
    return torch.linalg.vector_norm(torch.cat([*r, complementarity], -1), dim=-1)


def _weight(y: Tensor, z: Tensor) -> Tensor:
    """The weights with which objective, equalities and inequalities make the Lagrangian."""
    return torch.cat([y.new_ones(len(y), 1), y, z], -1)


def _mean(v: Tensor) -> Tensor:
    return v.mean(-1, keepdim=True) if v.shape[-1] else v.new_zeros(len(v), 1)


def _boundary(v: Tensor, dv: Tensor) -> Tensor:
    """(B, 1): the longest step that keeps ``v`` nonnegative."""
    ratio = torch.where(dv < 0, -v / torch.where(dv < 0, dv, -1.0), torch.inf)
    return ratio.amin(-1, keepdim=True) if v.shape[-1] else v.new_ones(len(v), 1)
