"""Why a convex program has no solution: a least violation that is not zero, or a direction of endless descent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import choose, iterate, surely_none
from .._base.numeric import matvec
from .._base.status import Status
from .active_set import KKTPoint, concave, largest
from .derivatives import Values, second
from .newton_kkt import factor

SUSPICIOUS = 1e5  # a certificate that excludes this radius ends the interior-point run
CERTAIN = 1e7  # and this one is believed
FAR = 1e10


def excluded_radius(point: KKTPoint, k: int) -> Tensor:
    """(B): no feasible point is nearer than this, relative to the larger of 1 and ``|x|`` (IPC-12)."""
    x, y, z, c, J, _ = point
    multipliers = torch.cat([y, z], -1)
    violation = (multipliers * c[:, 1:]).sum(-1)
    pull = matvec(J[:, 1:].mT, multipliers).abs().sum(-1)
    rounding = torch.finfo(x.dtype).eps * (multipliers.abs() * matvec(J[:, 1:].abs(), x.abs())).sum(-1)
    certain = violation > 1e4 * rounding + torch.finfo(x.dtype).tiny
    tiny = torch.finfo(x.dtype).tiny
    return torch.where(certain, violation / (pull + tiny) / x.abs().amax(-1).clamp(min=1), 0.0)


def diverging(point: KKTPoint, k: int) -> Tensor:
    """(B): the multipliers or the point go where no solution is."""
    far = largest(point.x) > torch.finfo(point.x.dtype).eps ** -0.75
    if point.c.shape[-1] == 1:
        return far
    return far | (excluded_radius(point, k) > SUSPICIOUS)


class _Violation(NamedTuple):
    point: KKTPoint  # with (h, max(g, 0)) for multipliers
    stuck: Tensor


def explain(
    values: Values, constraints: Values, point: KKTPoint, init: Tensor, direction: Tensor, status: Tensor, k: int
) -> tuple[Tensor, KKTPoint]:
    """The status of samples that were not solved, and certificates of infeasibility in their multipliers.

    Args:
        init: where the iteration started.
        direction: the last step that it wanted to take.
    """
    unsolved = status != int(Status.SOLVED)
    infeasible = torch.zeros_like(unsolved)
    if point.c.shape[-1] > 1:
        certificate = least_violation(constraints, point, unsolved, k)
        infeasible = unsolved & (excluded_radius(certificate, k) > CERTAIN)
        size = largest(torch.cat([certificate.y, certificate.z], -1)).clamp(min=torch.finfo(init.dtype).tiny)[:, None]
        certificate = certificate._replace(y=certificate.y / size, z=certificate.z / size)
        point = choose(infeasible, certificate, point)
        status = torch.where(infeasible, int(Status.PRIMAL_INFEASIBLE), status)
    rest = unsolved & ~infeasible
    if not surely_none(rest):
        status = torch.where(rest & concave(point, None, k), int(Status.INVALID_INPUT), status)
        unbounded = falls_forever(values, point, direction, k) | falls_forever(values, point, point.x - init, k)
        status = torch.where(rest & unbounded, int(Status.DUAL_INFEASIBLE), status)
    return status, point


def least_violation(constraints: Values, start: KKTPoint, wanted: Tensor, k: int, max_steps: int = 50) -> KKTPoint:
    """Minimise ``|h|^2 / 2 + |max(g, 0)|^2 / 2`` by Newton's method (IPC-13), from a start.

    The objective has no part in it: the certificate needs none, and is often found where there is none.
    """

    def evaluated(x: Tensor) -> KKTPoint:
        with torch.no_grad():
            h, excess = _violations(constraints(x), k)
        c, J, H = second(constraints, x, torch.cat([h, excess], -1))
        nothing = x.new_zeros(len(x), 1)  # in the place of the objective
        return KKTPoint(x, h, excess, torch.cat([nothing, c], -1), torch.cat([torch.zeros_like(x[:, None]), J], 1), H)

    def size(c: Tensor) -> Tensor:
        return 0.5 * torch.cat(_violations(c, k), -1).square().sum(-1)

    def step(at: _Violation) -> _Violation:
        x, y, z, c, J, H = at.point
        rows = torch.where(torch.cat([torch.ones_like(y), z], -1).unsqueeze(-1) > 0, J[:, 1:], 0.0)
        gradient = matvec(J[:, 1:].mT, torch.cat([y, z], -1))
        dx = -factor(H + rows.mT @ rows).solve(gradient)
        slope, before = (gradient * dx).sum(-1), size(c[:, 1:])
        alpha, rejected = torch.ones_like(slope), slope > 0
        for _ in range(30):
            with torch.no_grad():
                rejected = ~(size(constraints(x + alpha[:, None] * dx)) <= before + 1e-4 * alpha * slope)
            if surely_none(rejected):
                break
            alpha = torch.where(rejected, 0.5 * alpha, alpha)
        return _Violation(evaluated(x + alpha[:, None] * dx), rejected)

    def done(at: _Violation) -> Tensor:
        least = torch.finfo(at.point.x.dtype).eps ** 1.5
        certain = excluded_radius(at.point, k) > 100 * CERTAIN
        return ~wanted | at.stuck | (size(at.point.c[:, 1:]) < least) | certain

    return iterate(step, _Violation(evaluated(start.x), ~wanted), done, max_steps).state.point


def _violations(c: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return c[:, :k], c[:, k:].clamp(min=0)


def falls_forever(values: Values, point: KKTPoint, direction: Tensor, k: int) -> Tensor:
    """(B): very far along a direction the objective is lower still, and no constraint stops it (IPC-14)."""
    size = largest(direction).unsqueeze(-1)
    move = FAR * (1 + largest(point.x)).unsqueeze(-1) * direction / torch.where(size > 0, size, 1.0)
    with torch.no_grad():
        c = values(point.x + move)
    allowed = 1e-6 * (1 + matvec(point.J[:, 1:].abs(), move.abs()))
    violation = torch.cat([c[:, 1 : 1 + k].abs(), c[:, 1 + k :]], -1)
    return (c[:, 0] < point.c[:, 0]) & (violation <= allowed).all(-1)
