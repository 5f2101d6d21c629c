"""``cone_solve`` in plain torch: the cone program engine, dense, any device; the oracle of the kernel.

Equations (CIP-n) stand in docs/theory/cone_interior_point.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.numeric import dot, matvec
from .._base.status import Status
from .reference_cone_data import Program, count_curved, equilibrate, layout
from .reference_cone_kkt import System
from .reference_cone_symmetric import Cone, Scaling, SecondOrder, Semidefinite, Zero

CERTIFICATE = 1e-8  # relative residual of a proof that there is no solution
CANCELLED = 1e-4  # the same in units in which the data are about one
FRACTION = 0.99  # of the way to the boundary
SHRINK, HALF = 0.96, 0.6  # first and last factor by which a step is shortened that leaves the neighbourhood
SHORT = 1e-4  # a step that is none
STALLED = 2  # steps that have not halved the residuals
NEAR = 1e-7  # residuals from which on that is as near as rounding allows
SLOW = 0.1  # a step after which the Hessian of the barrier takes the place of a primal-dual scaling
RUNNING = -1


class Iterate(NamedTuple):
    x: Tensor  # (B, n)
    s: Tensor  # (B, m)
    z: Tensor  # (B, m)
    tau: Tensor  # (B, 1)
    kappa: Tensor  # (B, 1)

    def moved(self, step: Tensor, move: Iterate) -> Iterate:
        """`step (B,)` times `move` further."""
        return Iterate(*(a + step[:, None] * d for a, d in zip(self, move, strict=True)))

    def sample(self, index: Tensor) -> Iterate:
        return Iterate(*(part[index] for part in self))


class Residuals(NamedTuple):
    """Of the embedding (CIP-3), with the product ``Px`` that they are made of."""

    x: Tensor
    z: Tensor
    tau: Tensor
    Px: Tensor


class Verdict(NamedTuple):
    status: Tensor  # (B,) RUNNING where nothing is decided
    worst: Tensor  # (B,) the largest of the ratios (CIP-23)


def cone_solve(
    P: Tensor,
    q: Tensor,
    A: Tensor,
    b: Tensor,
    zero: int,
    nonneg: int,
    second_order: Sequence[int],
    psd: Sequence[int],
    exponential: int,
    power: Sequence[float],
    eps: float,
    max_steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``x, s, z, status, iterations`` for float64 data ``P (B, n, n), q (B, n), A (B, m, n), b (B, m)``, all finite.

    Of a sample that is not solved, the point with the smallest residuals; of an infeasible or unbounded one, a
    certificate in ``z`` or ``x``.
    """
    cones = layout(zero, nonneg, second_order, psd, exponential, power, q)
    whole = equilibrate(cones, 0.5 * (P + P.mT), q, A, b)
    it = _start(whole, cones)
    track = Track.start(it)
    running, program = torch.arange(len(q), device=q.device), whole
    for step in range(max_steps + 1):
        r = residuals(program, it)
        verdict = judge(program, it, r, eps)
        track.record(running, it, verdict, step)
        going = track.status[running] == RUNNING
        if step == max_steps or not going.any():
            break
        running, program, it = running[going], program.sample(going), it.sample(going)
        it, length = advance(program, cones, it, residuals(program, it), track.primal_dual[running])
        jammed = (length < SHORT) & ~track.primal_dual[running]
        ended = torch.where(track.least <= NEAR, int(Status.SOLVED), int(Status.NUMERICAL_ERROR))
        track.status[running[jammed]] = ended[running[jammed]]
        track.primal_dual[running] &= length >= SLOW
    status = torch.where(track.status == RUNNING, int(Status.MAX_STEPS), track.status)
    return *_in_units_of_the_data(whole, track.best, status), status, track.iterations


class Track(NamedTuple):
    """What is known of each sample of the whole batch; changed in place."""

    best: Iterate
    least: Tensor  # (B,) residual of the best point
    goal: Tensor  # (B,) residual at which the next point counts as progress
    since: Tensor  # (B,) the step of the last progress
    status: Tensor  # (B,)
    iterations: Tensor  # (B,)
    primal_dual: Tensor  # (B,) bool: whether curved cones are scaled by (CIP-13)

    @staticmethod
    def start(it: Iterate) -> Track:
        infinite, zero = torch.full_like(it.tau[:, 0], torch.inf), torch.zeros_like(it.tau[:, 0], dtype=torch.int64)
        best = Iterate(*(part.clone() for part in it))
        return Track(best, infinite, infinite.clone(), zero, zero + RUNNING, zero.clone(), zero == 0)

    def record(self, running: Tensor, it: Iterate, verdict: Verdict, step: int) -> None:
        worst, status = verdict.worst, verdict.status
        certified = (status == int(Status.PRIMAL_INFEASIBLE)) | (status == int(Status.DUAL_INFEASIBLE))
        better = (worst < self.least[running]) | certified
        for kept, new in zip(self.best, it, strict=True):
            kept[running[better]] = new[better]
        self.least[running[better]] = worst[better]
        ahead = worst <= self.goal[running]
        self.goal[running[ahead]], self.since[running[ahead]] = 0.5 * worst[ahead], step
        near = (self.least[running] <= NEAR) & ~certified
        stalled = (step - self.since[running] >= STALLED) & (it.tau > it.kappa)[:, 0]
        broken = status == int(Status.NUMERICAL_ERROR)
        status = torch.where(near & (broken | ((status == RUNNING) & stalled)), int(Status.SOLVED), status)
        still = self.status[running] == RUNNING
        self.status[running[still]], self.iterations[running] = status[still], step


def residuals(program: Program, it: Iterate) -> Residuals:
    """(CIP-3)."""
    P, q, A, b = program[:4]
    Px = matvec(P, it.x)
    gap = it.kappa + dot(it.x, Px) / it.tau + dot(q, it.x) + dot(b, it.z)
    return Residuals(Px + matvec(A.mT, it.z) + q * it.tau, matvec(A, it.x) + it.s - b * it.tau, gap, Px)


def judge(program: Program, it: Iterate, r: Residuals, eps: float) -> Verdict:
    """(CIP-23)."""
    _, q, A, b, column, row, cost = program
    to_dual = 1 / (column * cost)
    x, s, z = it.x * column, it.s / row, it.z * row / cost
    Px, ATz, Ax = r.Px * to_dual, matvec(A.mT, it.z) * to_dual, matvec(A, it.x) / row
    xPx, qx, bz = dot(it.x, r.Px) / cost, dot(q, it.x) / cost, dot(b, it.z) / cost
    tau = it.tau
    primal = _size(r.z / row) / torch.maximum(tau, _size(Ax, s, b / row * tau))
    dual = _size(r.x * to_dual) / torch.maximum(tau, _size(Px, ATz, q * to_dual * tau))
    value, bound = 0.5 * xPx / tau + qx, -0.5 * xPx / tau - bz
    gap = (value - bound).abs() / torch.maximum(tau, torch.maximum(value.abs(), bound.abs()))
    worst = torch.cat([primal, dual, gap], -1).amax(-1)

    lost = it.kappa > tau
    infeasible = lost & (bz < 0) & (_size(ATz) <= CERTIFICATE * _size(x, z).clamp(min=1) * bz.abs())
    infeasible &= _size(matvec(A.mT, it.z)) <= CANCELLED * _size(it.z)
    ray = torch.maximum(_size(Px), _size(Ax + s))
    unbounded = lost & (qx < 0) & (ray <= CERTIFICATE * _size(x, s).clamp(min=1) * qx.abs())
    unbounded &= torch.maximum(_size(r.Px), _size(matvec(A, it.x) + it.s)) <= CANCELLED * _size(it.x)
    status = torch.full_like(infeasible, RUNNING, dtype=torch.int64)
    for where, what in (
        (unbounded, Status.DUAL_INFEASIBLE),
        (infeasible, Status.PRIMAL_INFEASIBLE),
        (worst[:, None] <= eps, Status.SOLVED),
    ):
        status = torch.where(where, int(what), status)
    finite = torch.isfinite(worst)
    status = torch.where(finite, status[:, 0], int(Status.NUMERICAL_ERROR))
    return Verdict(status, torch.where(finite, worst, torch.inf))


def advance(
    program: Program, cones: Sequence[Cone], it: Iterate, r: Residuals, primal_dual: Tensor
) -> tuple[Iterate, Tensor]:
    """One step, and its length ``(B,)``."""
    scalings = [cone.scale(it.s[:, cone.index], it.z[:, cone.index], primal_dual) for cone in cones]
    system = System(program, cones, scalings)
    mu = (dot(it.s, it.z) + it.tau * it.kappa) / (sum(cone.degree for cone in cones) + 1)
    u = system.solve(-program.q, program.b)
    one, product = torch.ones_like(mu), it.tau * it.kappa
    affine = direction(program, cones, scalings, system, it, r, u, one, it.s, product)
    curved = count_curved(cones)
    # The predictor is held to the neighbourhood too: near its edge sigma is then large, and the next point central.
    allowed = torch.full_like(mu, 1.0 + curved if curved else torch.inf)
    reached = _length(cones, scalings, it, affine, allowed)[:, None]
    sigma = (1 - reached) ** 3
    # Second-order terms of a step that could not be taken mean nothing.
    seen = Iterate(*((2 * reached).clamp(max=1.0) * part for part in affine)) if curved else affine
    d_s = it.s.clone()
    for cone, scaling in zip(cones, scalings, strict=True):
        index = cone.index
        d_s[:, index] += scaling.corrected(seen.s[:, index], seen.z[:, index], (sigma * mu)[..., None])
    d_kappa = product + seen.tau * seen.kappa - sigma * mu
    move = direction(program, cones, scalings, system, it, r, u, 1 - sigma, d_s, d_kappa)
    length = _length(cones, scalings, it, move, allowed)
    return it.moved(length, move), length


def direction(
    program: Program,
    cones: Sequence[Cone],
    scalings: Sequence[Scaling],
    system: System,
    it: Iterate,
    r: Residuals,
    u: tuple[Tensor, Tensor],
    eta: Tensor,
    d_s: Tensor,
    d_kappa: Tensor,
) -> Iterate:
    """The solution of (CIP-5), by (CIP-6) and (CIP-7)."""
    P, q, b = program.P, program.q, program.b
    (u_x, u_z), (w_x, w_z) = u, system.solve(-eta * r.x, d_s - eta * r.z)
    xi = it.x / it.tau
    off = u_x - xi
    above = eta * r.tau - d_kappa / it.tau + dot(q + 2 * r.Px / it.tau, w_x) + dot(b, w_z)
    below = it.kappa / it.tau + dot(off, matvec(P, off)) - dot(u_x, matvec(P, u_x)) - dot(q, u_x) - dot(b, u_z)
    d_tau = above / below
    dx, dz = w_x + d_tau * u_x, w_z + d_tau * u_z
    ds = -d_s
    for cone, scaling in zip(cones, scalings, strict=True):
        ds[:, cone.index] -= matvec(scaling.H, dz[:, cone.index])
    return Iterate(dx, ds, dz, d_tau, -(d_kappa + it.kappa * d_tau) / it.tau)


def _length(cones: Sequence[Cone], scalings: Sequence[Scaling], it: Iterate, move: Iterate, allowed: Tensor) -> Tensor:
    """``(B,)`` the step along `move`, at most one; `allowed (B, 1)` bounds the proximity (CIP-9) after it."""
    reach = it.tau.new_full(it.tau.shape[:1], torch.inf)
    for value, change in ((it.tau, move.tau), (it.kappa, move.kappa)):
        reach = torch.minimum(reach, torch.where(change < 0, -value / change, torch.inf)[:, 0])
    for cone, scaling in zip(cones, scalings, strict=True):
        reach = torch.minimum(reach, scaling.reach(move.s[:, cone.index], move.z[:, cone.index]))
    length = (FRACTION * reach).clamp(max=1.0)
    if all(cone.symmetric for cone in cones):
        return length
    factor = SHRINK
    while True:
        far = (length >= SHORT * SHRINK) & ~(_proximity(cones, it.moved(length, move)) <= allowed[:, 0])
        if not far.any():
            return length
        length, factor = torch.where(far, factor * length, length), max(factor**2, HALF)


def _proximity(cones: Sequence[Cone], it: Iterate) -> Tensor:
    """(CIP-9)."""
    total = sum(cone.degree for cone in cones) + 1
    product = it.tau * it.kappa
    psi = total * ((dot(it.s, it.z) + product) / total).log() - product.log()
    return sum((cone.proximity(it.s[:, cone.index], it.z[:, cone.index]) for cone in cones), psi[:, 0])


def _start(program: Program, cones: Sequence[Cone]) -> Iterate:
    """(CIP-22)."""
    P, q, b = program.P, program.q, program.b
    tau = torch.ones_like(program.cost)
    unit = torch.zeros_like(b)
    for cone in cones:
        unit[:, cone.index] = cone.unit(b)
    symmetric = [cone for cone in cones if isinstance(cone, Zero | SecondOrder | Semidefinite)]
    if len(symmetric) < len(cones):
        return Iterate(torch.zeros_like(q), unit, unit.clone(), tau, tau.clone())
    system = System(program, cones, None)
    x, z = system.solve(-q, b)
    s = -z
    linear = (P == 0).flatten(1).all(-1)
    if linear.any():
        x_0, s_0 = system.solve(torch.zeros_like(q), b)
        _, z_0 = system.solve(-q, torch.zeros_like(b))
        x, s, z = (torch.where(linear[:, None], new, old) for new, old in ((x_0, x), (-s_0, s), (z_0, z)))
    for cone in cones:
        if not cone.degree:
            s[:, cone.index] = 0.0
    return Iterate(x, _inside(symmetric, s, unit), _inside(symmetric, z, unit), tau, tau.clone())


def _inside(cones: Sequence[Zero | SecondOrder | Semidefinite], v: Tensor, unit: Tensor) -> Tensor:
    margin = v.new_full(v.shape[:1], torch.inf)
    for cone in cones:
        margin = torch.minimum(margin, cone.margin(v[:, cone.index]))
    return v + torch.where(margin > 0, 0.0, 1 - margin)[:, None] * unit


def _in_units_of_the_data(program: Program, it: Iterate, status: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    certificate = (status == int(Status.PRIMAL_INFEASIBLE)) | (status == int(Status.DUAL_INFEASIBLE))
    unit = torch.where(certificate[:, None], 1.0, it.tau)
    return it.x * program.column / unit, it.s / program.row / unit, it.z * program.row / (program.cost * unit)


def _size(*values: Tensor) -> Tensor:
    """``(B, 1)`` the largest entry of all."""
    sizes = [value.abs().amax(-1, keepdim=True) if value.shape[-1] else value.sum(-1, keepdim=True) for value in values]
    return torch.cat(sizes, -1).amax(-1, keepdim=True)
