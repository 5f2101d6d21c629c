"""``qp_solve`` in plain torch: same signature, same algorithm, any device; the oracle of the kernel.

Everything runs in float64, whatever the dtype of the data; equations (IPM-n) stand in docs/theory/qp.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import can_read, choose, surely_none
from .._base.status import Status
from .reference_kkt import qp_backward, qp_kkt
from .reference_program import DELTA, RHO, Program, active_set_solve, build, largest, solve_factored, symmetric_part

__all__ = ["qp_backward", "qp_kkt", "qp_solve"]

MARGIN = 0.1  # a row is unclear while its indicator -ds/s is this near to 1/2
UNCLEAR = 0.05  # an active set is tried once no larger part of the inequalities is unclear
FLIPS = 6  # corrections of a tried active set, as long as each halves the wrong rows
POLISHED = 1e-11  # residual a polished solution must have
SIGN = 1e-12  # a multiplier or slack this little below zero, relative, is zero
WEAK = 1e-10  # a multiplier this small, relative, makes its row weakly active, that is inactive
CERTIFICATE = 1e8  # a certificate must exclude every solution within this radius (IPM-13)
LAGGING = 1e-3  # once the gap is below this, the violation should be below the gap
BALANCE = 1e-3  # where it is not: least gap aimed at, relative to the violation
STEP_REFINEMENTS = 12  # and refinements of the step
RUNNING = -1


class Iterate(NamedTuple):
    x: Tensor  # (B, n)
    dual: Tensor  # (B, N) multipliers of all rows; 0 at absent ones
    s: Tensor  # (B, N) slacks; positive at inequalities, 0 elsewhere


class Residuals(NamedTuple):
    x: Tensor  # (B, n)  Qx + p + C'dual
    row: Tensor  # (B, N)  Cx + s - c
    norms: Tensor  # (B, 3) relative primal, dual and complementarity residual (IPM-10)

    @property
    def worst(self) -> Tensor:
        return self.norms.amax(-1, keepdim=True)


def qp_solve(Q, p, G, h, A, b, lb, ub, eps: float, max_steps: int, polish: bool = True) -> tuple[Tensor, ...]:
    """Twin of :func:`optlayers._native.ops.qp_solve`, where the contract stands.

    Autograd can run through it: nothing is changed in place. `polish=False` keeps to the interior point, whose
    iterates carry the tape; the polish never does, and is left out where values cannot be read.
    """
    dtype = p.dtype
    lower, upper = lb.shape[-1], ub.shape[-1]
    Q, *others = (t.to(torch.float64) for t in (Q, p, G, h, A, b, lb, ub))
    data = [symmetric_part(Q), *others]
    valid = _valid(*data, eps=torch.finfo(dtype).eps)
    program = build(*_replace_invalid(valid, *data))
    it, status, iterations, ray = _interior_point(program, eps, max_steps, polish)
    status = torch.where(valid, status, Status.INVALID_INPUT)
    norms = residuals(program, it).norms
    active = _active(program, it)

    primal, dual_infeasible = status == Status.PRIMAL_INFEASIBLE, status == Status.DUAL_INFEASIBLE
    x = program.column * choose(dual_infeasible, ray.x, it.x)
    dual = program.row * choose(primal, ray.dual, it.dual / program.cost)
    x = choose(dual_infeasible, x / largest(x).clamp(min=torch.finfo(dtype).tiny), x)
    dual = choose(primal, dual / largest(dual).clamp(min=torch.finfo(dtype).tiny), dual)

    k, m = A.shape[-2], G.shape[-2]
    y, z, z_lb, z_ub = dual.split([k, m, lower, upper], -1)
    _, active_G, active_lb, active_ub = active.split([k, m, lower, upper], -1)
    s = torch.where(torch.isinf(h), torch.inf, (it.s / program.row)[:, k : k + m])
    if lower and upper:  # the multiplier of a fixed variable goes by its sign to one of its two bounds
        fixed = program.equality[:, k + m + lower :]
        z_lb = torch.where(fixed, (-z_ub).clamp(min=0), z_lb)
        active_lb = torch.where(fixed, z_ub < 0, active_lb)
        active_ub = torch.where(fixed, z_ub >= 0, active_ub)
        z_ub = torch.where(fixed, z_ub.clamp(min=0), z_ub)
    broken = ~valid | (status == Status.NUMERICAL_ERROR)
    floats = [choose(broken, torch.full_like(t, torch.nan), t).to(dtype) for t in (x, y, z, z_lb, z_ub, s, norms)]
    masks = [t & ~broken.unsqueeze(-1) for t in (active_G, active_lb, active_ub)]
    return *floats[:6], *masks, status, iterations, floats[6]


def residuals(program: Program, it: Iterate) -> Residuals:
    """KKT residuals, relative to what they are sums of, in equilibrated units and in those of the user (IPM-10)."""
    Qx, Cd, Cx = program.quadratic(it.x), program.adjoint(it.dual), program.rows(it.x)
    r_x = Qx + program.p + Cd
    r_row = torch.where(program.present, Cx + it.s - program.c, 0.0)
    terms = torch.maximum(torch.maximum(largest(Qx), largest(Cd)), largest(program.p))
    row_unit = program.row.clamp(max=1) + program.c.abs()
    gap = torch.minimum(it.s / row_unit, it.dual / (1 + largest(it.dual)))
    norms = [
        largest(r_row / (row_unit + Cx.abs())),
        largest(r_x / (program.column.clamp(max=1) + terms)),
        largest(torch.where(program.inequality, gap, 0.0)),
    ]
    return Residuals(r_x, r_row, torch.cat(norms, -1))


def _interior_point(program: Program, eps: float, max_steps: int, polish: bool):
    """Mehrotra's method with proximal terms (IPM-5..9); returns iterate, status, iterations, certificate."""
    it = _start(program)
    batch = it.x.shape[:1]
    status = torch.full(batch, RUNNING, dtype=torch.int64, device=it.x.device)
    iterations = torch.zeros_like(status)
    unbounded = torch.zeros_like(status, dtype=torch.bool)  # a ray was found; what is left to see is a feasible point
    ray = Iterate(*map(torch.zeros_like, it))
    refused = torch.full_like(program.present, -1, dtype=torch.int8)  # the active set tried last, to no avail
    allowed = UNCLEAR * program.inequality.sum(-1)  # rows that may be unclear in the next one
    for step in range(max_steps + 1):
        r = residuals(program, it)
        running = status == RUNNING
        if surely_none(running):
            break
        converged = running & (r.worst <= eps).squeeze(-1)
        if polish:
            guess = program.equality | (program.inequality & (it.dual > it.s))
            it, _ = _polish(program, it, converged, guess, r.worst.clamp(min=POLISHED))
        status = torch.where(converged, torch.where(unbounded, Status.DUAL_INFEASIBLE, Status.SOLVED), status)
        running = running & ~converged
        if step == max_steps:
            break

        factor = program.factor(_weight(program, it))
        # Near a degenerate vertex the proximal terms hold the multipliers back, the violation stays behind the gap, and
        # the slacks that have vanished meanwhile jam every step. There the step is refined to the one without them.
        lagging = running & (r.norms[:, 0] > r.norms[:, 2]) & (r.norms[:, 2] < LAGGING)
        affine = _direction(program, factor, it, r, it.s * it.dual, lagging)
        if polish:
            indicator = torch.where(program.inequality, -affine.s / torch.where(program.inequality, it.s, 1.0), 1.0)
            guess = program.equality | (program.inequality & (indicator > 0.5))
            unclear = (~((indicator - 0.5).abs() > MARGIN)).sum(-1)
            clear = (unclear <= allowed) & (guess != refused).any(-1)
            it, accepted = _polish(program, it, running & clear, guess, torch.full_like(r.worst, POLISHED), FLIPS)
            refused = choose(clear, guess.to(torch.int8), refused)
            allowed = torch.where(clear, unclear / 2, allowed)
            status = torch.where(accepted, torch.where(unbounded, Status.DUAL_INFEASIBLE, Status.SOLVED), status)
            running = running & ~accepted
        move = _direction(program, factor, it, r, _corrected(program, it, affine, r, lagging), lagging)
        finite = torch.isfinite(move.x).all(-1) & torch.isfinite(move.dual).all(-1)
        status = torch.where(running & ~finite, Status.NUMERICAL_ERROR, status)
        running = running & finite

        proof, found = _certificates(program, factor, it, move)
        status = torch.where(running & found.primal, Status.PRIMAL_INFEASIBLE, status)
        ray = choose(running & found.primal, ray._replace(dual=proof.dual), ray)
        running = running & ~found.primal
        restart = running & found.dual & ~unbounded
        ray = choose(restart, ray._replace(x=proof.x), ray)
        unbounded = unbounded | restart
        it = choose(running, _advance(program, it, move), it)
        program, it = _look_for_feasible(program, it, restart)
        iterations = iterations + running
    status = torch.where(status == RUNNING, torch.where(unbounded, Status.DUAL_INFEASIBLE, Status.MAX_STEPS), status)
    return it, status, iterations, ray


def _start(program: Program) -> Iterate:
    """The minimiser of the objective plus half the squared violation, pushed inside the cone (IPM-4)."""
    weight = program.equality / DELTA + program.inequality.to(program.p.dtype)
    x = solve_factored(program.factor(weight), program.adjoint(weight * program.c) - program.p)
    violation = weight * (program.rows(x) - program.c)
    s = torch.where(program.inequality, (-violation).clamp(min=1), 0.0)
    return Iterate(x, torch.where(program.inequality, violation.clamp(min=1), violation), s)


def _weight(program: Program, it: Iterate) -> Tensor:
    """1 / (s/z + delta), 1/delta at equalities, 0 at absent rows: bounded by 1/delta where z/s is not (IPM-6)."""
    return torch.where(program.inequality, it.dual / _barrier(program, it), program.equality / DELTA)


def _barrier(program: Program, it: Iterate) -> Tensor:
    return torch.where(program.inequality, it.s + DELTA * it.dual, 1.0)


def _direction(program: Program, factor: Tensor, it: Iterate, r: Residuals, r_gap: Tensor, lagging: Tensor) -> Iterate:
    """Newton step towards zero residuals and s z = s z - r_gap (IPM-7), refined where `lagging` (IPM-20)."""
    weight, pull = _weight(program, it), r_gap / _barrier(program, it)
    dx = solve_factored(factor, -r.x - program.adjoint(weight * r.row - pull))
    moved = program.rows(dx)
    ddual = weight * (moved + r.row) - pull
    held = ddual  # delta times this is what the proximal terms keep from the step
    if not surely_none(lagging):
        part = Iterate(choose(lagging, dx, torch.zeros_like(dx)), choose(lagging, ddual, torch.zeros_like(ddual)), it.s)
        for _ in range(STEP_REFINEMENTS):
            pull = DELTA * weight * part.dual
            step = solve_factored(factor, RHO * part.x - program.adjoint(pull))
            change = program.rows(step)
            part = Iterate(step, weight * change + pull, it.s)
            dx, moved, ddual = dx + step, moved + change, ddual + part.dual
        held = choose(lagging, part.dual, ddual)
    return Iterate(dx, ddual, torch.where(program.inequality, DELTA * held - r.row - moved, 0.0))


def _corrected(program: Program, it: Iterate, affine: Iterate, r: Residuals, lagging: Tensor) -> Tensor:
    """Mehrotra's second-order correction and centering (IPM-8)."""
    count = program.inequality.sum(-1, keepdim=True).clamp(min=1)
    length = _step_length(program, it, affine)
    mu = (it.s * it.dual).sum(-1, keepdim=True) / count
    mu_affine = ((it.s + length * affine.s) * (it.dual + length * affine.dual)).sum(-1, keepdim=True) / count
    sigma = (mu_affine / mu.clamp(min=1e-200)).clamp(0, 1) ** 3
    lag = choose(lagging, BALANCE * largest(r.row), torch.zeros_like(mu))
    target = torch.maximum(sigma * mu, lag).clamp(min=1e-30)
    return torch.where(program.inequality, it.s * it.dual + affine.s * affine.dual - target, 0.0)


def _step_length(program: Program, it: Iterate, move: Iterate) -> Tensor:
    """The longest step up to 1 that keeps s and z nonnegative (IPM-9)."""
    length = torch.ones_like(it.x[:, :1])
    for v, dv in ((it.s, move.s), (it.dual, move.dual)):
        shrinks = program.inequality & (dv < 0)
        ratio = torch.where(shrinks, -v / torch.where(shrinks, dv, -1.0), 1.0)
        if ratio.shape[-1]:
            length = torch.minimum(length, ratio.amin(-1, keepdim=True))
    return length


def _advance(program: Program, it: Iterate, move: Iterate) -> Iterate:
    """Go almost to the boundary; nearer, the smaller the gap."""
    length = _step_length(program, it, move)
    mu = (it.s * it.dual).sum(-1, keepdim=True) / program.inequality.sum(-1, keepdim=True).clamp(min=1)
    length = torch.where(length < 1, length * (1 - mu).clamp(min=0.995), length)
    s = torch.where(program.inequality, (it.s + length * move.s).clamp(min=1e-300), 0.0)
    dual = it.dual + length * move.dual
    dual = torch.where(program.inequality, dual.clamp(min=1e-300), dual)
    return Iterate(it.x + length * move.x, dual, s)


class Found(NamedTuple):
    primal: Tensor  # (B,) bool: the multipliers prove that no x is feasible
    dual: Tensor  # (B,) bool: the direction is one of unbounded descent


def _certificates(program: Program, factor: Tensor, it: Iterate, move: Iterate) -> tuple[Iterate, Found]:
    """Test iterate and step as proofs of infeasibility (IPM-13), purified (IPM-14), and of unboundedness (IPM-15)."""
    proof = Iterate(*map(torch.zeros_like, it))
    primal = torch.zeros(it.x.shape[:1], dtype=torch.bool, device=it.x.device)
    dual = primal
    weight = _weight(program, it)
    violation = torch.where(program.present, program.rows(it.x) - program.c, 0.0)
    gradient = program.p + program.quadratic(it.x)
    for candidate in (it, move):
        v = torch.where(program.inequality, candidate.dual.clamp(min=0), candidate.dual)
        pure = v - weight * program.rows(solve_factored(factor, program.adjoint(v)))
        pure = torch.where(program.inequality, pure.clamp(min=0), pure)
        for w in (v, pure):
            gain, size, total = _sums(violation * w, w)
            leak = program.adjoint(w).abs().sum(-1, keepdim=True)
            holds = _excludes(gain, size, leak, torch.maximum(largest(it.x).clamp(min=1), size / total))
            proof = choose(holds & ~primal, proof._replace(dual=w), proof)
            primal = primal | holds

        d = candidate.x
        gain, size, total = _sums(-gradient * d, d)
        outward = program.rows(d)
        outward = torch.where(program.inequality, outward.clamp(min=0), outward)
        leak = torch.maximum(largest(outward), largest(program.quadratic(d)))
        holds = _excludes(gain, size, leak, (size / total).clamp(min=1))
        proof = choose(holds & ~dual, proof._replace(x=d), proof)
        dual = dual | holds
    return proof, Found(primal, dual)


def _sums(terms: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = candidate.abs().sum(-1, keepdim=True).clamp(min=1e-300)
    return terms.sum(-1, keepdim=True), terms.abs().sum(-1, keepdim=True), total


def _excludes(gain: Tensor, size: Tensor, leak: Tensor, scale: Tensor) -> Tensor:
    """(B,): no solution lies nearer than CERTIFICATE * scale, nor does rounding explain the gain."""
    return ((gain > 1e-8 * size) & (gain >= CERTIFICATE * leak * scale)).squeeze(-1)


def _look_for_feasible(program: Program, it: Iterate, restart: Tensor) -> tuple[Program, Iterate]:
    """Where a ray was found, go on with min |x|^2 / 2: the program is unbounded if it has a feasible point at all."""
    identity = torch.eye(it.x.shape[-1], dtype=it.x.dtype, device=it.x.device).expand_as(program.Q)
    fresh = Iterate(
        torch.zeros_like(it.x),
        program.inequality.to(it.x.dtype),
        torch.where(program.inequality, program.c.clamp(min=1), 0.0),
    )
    Q, p = choose(restart, identity, program.Q), choose(restart, torch.zeros_like(program.p), program.p)
    return replace(program, Q=Q, p=p), choose(restart, fresh, it)


def _polish(program: Program, it: Iterate, wanted: Tensor, active: Tensor, tolerance: Tensor, flips: int = 1):
    """Solve the `wanted` samples on their guessed active sets (IPM-11, IPM-12); returns the iterate and who took it."""
    if surely_none(wanted) or not can_read(wanted):
        return it, torch.zeros_like(wanted)
    with torch.no_grad():
        index = wanted.nonzero().squeeze(-1)
        part, x, active, tolerance = program.take(index), it.x[index], active[index], tolerance[index]
        best = Iterate(x, it.dual[index], it.s[index])
        accepted = torch.zeros_like(index, dtype=torch.bool)
        trying, before = ~accepted, torch.full_like(index, active.shape[-1] + 1)
        for _ in range(flips + 1):
            dx, dual, _ = active_set_solve(part, active, -part.p - part.quadratic(x), part.c - part.rows(x))
            s = torch.where(part.inequality & ~active, part.c - part.rows(x + dx), 0.0)
            wrong = part.inequality & ((dual < -SIGN * (1 + largest(dual))) | (s < -SIGN * (1 + part.c.abs())))
            trial = Iterate(x + dx, torch.where(part.inequality, dual.clamp(min=0), dual), s.clamp(min=0))
            good = trying & (residuals(part, trial).worst <= tolerance).squeeze(-1)
            best = choose(good, trial, best)
            accepted = accepted | good
            count = wrong.sum(-1)
            trying = trying & ~good & (count > 0) & (2 * count <= before)
            if surely_none(trying):
                break
            active, before = active ^ wrong, count
        taken = torch.zeros_like(wanted).index_put((index,), accepted)
        return Iterate(*(old.index_put((index,), new) for old, new in zip(it, best, strict=True))), taken


def _active(program: Program, it: Iterate) -> Tensor:
    """Inequalities that hold with equality and push: weakly active ones (z = s = 0) count as inactive (IPM-16)."""
    threshold = torch.maximum(it.s, WEAK * (1 + largest(it.dual)))
    return program.equality | (program.inequality & (it.dual > threshold))


def _valid(Q, p, G, h, A, b, lb, ub, eps: float) -> Tensor:
    """(B,): a convex program in numbers, infinite only where a row may be absent."""
    one = torch.ones_like(p[:, :1], dtype=torch.bool)
    tests = [torch.isfinite(t).flatten(1) for t in (Q, p, G, A, b)]
    tests += [h > -torch.inf, lb < torch.inf, ub > -torch.inf]  # false for NaN too
    if lb.shape[-1] and ub.shape[-1]:
        tests.append(lb <= ub)
    valid = torch.cat([one, *tests], -1).all(-1)
    size = largest(Q.flatten(1)).unsqueeze(-1)
    shift = max(1e-8, 4 * Q.shape[-1] * eps)
    identity = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    scaled = torch.where(valid[:, None, None], Q, identity) / torch.where(valid[:, None, None] & (size > 0), size, 1.0)
    return valid & (torch.linalg.cholesky_ex(scaled + shift * identity)[1] == 0)


def _replace_invalid(valid: Tensor, Q, p, G, h, A, b, lb, ub) -> list[Tensor]:
    """The data, with min |x|^2 / 2 in place of an invalid sample, whose NaN would reach shared gradients."""
    identity = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device).expand_as(Q)
    harmless = [identity, *map(torch.zeros_like, (p, G, h, A, b))]
    harmless += [torch.full_like(lb, -torch.inf), torch.full_like(ub, torch.inf)]
    return [choose(valid, t, other) for t, other in zip((Q, p, G, h, A, b, lb, ub), harmless, strict=True)]
