"""Quadratic programs from a guess of their solution: one linear solve where its active set is right, cold elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.numeric import matvec
from .._base.status import Status
from .._native import ops

SIGN = 1e-12  # a multiplier this little below zero, relative, is zero
WEAK = 1e-10  # and one this little above it makes its row weakly active, that is inactive (IPM-16)


class Guess(NamedTuple):
    """Where to look first; of the multipliers counts only which of them exceed the slack."""

    x: Tensor  # (B, n)
    z: Tensor  # (B, m)
    z_lb: Tensor  # (B, n) or (B, 0)
    z_ub: Tensor


class ActiveSet(NamedTuple):
    """Inequalities taken for equalities."""

    G: Tensor  # (B, m) bool
    lb: Tensor  # (B, n) or (B, 0)
    ub: Tensor


def solve_warm(
    cold: Callable[[Sequence[Tensor]], Sequence[Tensor]], data: Sequence[Tensor], guess: Guess, eps: float
) -> list[Tensor]:
    """Solve for ``(Q, p, G, h, A, b, lb, ub)``, each ``(B, ...)``; returns what `cold` does, see :func:`ops.qp_solve`.

    A sample is accepted, after one iteration, if the solution of its KKT system on the guessed active set satisfies all
    KKT conditions to `eps`; the others go to `cold`. A guess can therefore cost time, never the answer.
    """
    values, accepted = solve_active(data, guessed_set(data, guess), eps)
    rest = (~accepted).nonzero().squeeze(-1)
    if len(rest) == 0:
        return values
    if len(rest) == len(accepted):
        return list(cold(data))
    again = cold([t[: len(rest)] if t.stride(0) == 0 else t[rest] for t in data])  # shared data stay shared
    return [value.index_copy_(0, rest, other) for value, other in zip(values, again, strict=True)]


def guessed_set(data: Sequence[Tensor], guess: Guess) -> ActiveSet:
    """The rows whose multiplier exceeds their slack on the new data: one step of the primal-dual active set method."""
    _, _, G, h, _, _, lb, ub = data
    x, z, z_lb, z_ub = guess
    on_G = (z > h - matvec(G, x)) & h.isfinite()
    on_lb = (z_lb > x - lb) & lb.isfinite() if lb.shape[-1] else z_lb > 0
    on_ub = (z_ub > ub - x) & ub.isfinite() if ub.shape[-1] else z_ub > 0
    if lb.shape[-1] and ub.shape[-1]:  # a fixed variable is active at its upper bound
        fixed = lb == ub
        on_lb, on_ub = on_lb & ~fixed, on_ub | fixed
    return ActiveSet(on_G, on_lb, on_ub)


def solve_active(data: Sequence[Tensor], active: ActiveSet, eps: float) -> tuple[list[Tensor], Tensor]:
    """Values as :func:`ops.qp_solve` returns them for this active set, and which samples they solve."""
    Q, p, G, h, A, b, lb, ub = data
    right = [torch.where(mask, t, 0.0) for mask, t in zip(active, (h, -lb, ub), strict=True)]
    x, y, z, z_lb, z_ub, _ = ops.qp_kkt(Q, G, A, *active, -p, b, *right)
    if lb.shape[-1] and ub.shape[-1]:  # the multiplier of a fixed variable goes by its sign to one of its two bounds
        below = (lb == ub) & (z_ub < 0)
        z_lb, z_ub = torch.where(below, -z_ub, z_lb), torch.where(below, 0.0, z_ub)
        active = ActiveSet(active.G, active.lb | below, active.ub & ~below)
    size = _largest(torch.cat([y, z, z_lb, z_ub], -1))
    signs = torch.cat([z, z_lb, z_ub], -1) >= -SIGN * (1 + size)
    z, z_lb, z_ub = (t.clamp(min=0) for t in (z, z_lb, z_ub))
    # Exact where a row is active, so that no sign of rounding is left in a slack.
    x = torch.where(active.lb, lb, x) if lb.shape[-1] else x
    x = torch.where(active.ub, ub, x) if ub.shape[-1] else x

    Gx, Ax, Qx = matvec(G, x), matvec(A, x), 0.5 * (matvec(Q, x) + matvec(Q.mT, x))
    forces = matvec(G.mT, z) + matvec(A.mT, y)
    forces = forces - z_lb if lb.shape[-1] else forces
    forces = forces + z_ub if ub.shape[-1] else forces
    s = h - Gx
    violated = torch.where(active.G, s.abs(), -s).clamp(min=0)
    outside = _beyond(lb, x), _beyond(x, ub)
    rows = [_relative(violated, G, h, Gx), _relative((Ax - b).abs(), A, b, Ax), *outside]
    tiny = torch.finfo(p.dtype).tiny
    terms = torch.maximum(torch.maximum(_largest(Qx), _largest(p)), _largest(forces)).clamp(min=tiny)
    primal, dual = _largest(torch.cat(rows, -1)), _largest(Qx + p + forces) / terms
    residuals = torch.cat([primal, dual, torch.zeros_like(primal)], -1)

    accepted = is_convex(Q) & signs.all(-1) & (residuals <= eps).all(-1)  # a NaN anywhere is false
    if lb.shape == ub.shape:
        accepted = accepted & (lb <= ub).all(-1)
    strongly = [mask & (t > WEAK * (1 + size)) for mask, t in zip(active, (z, z_lb, z_ub), strict=True)]
    status = torch.full_like(accepted, int(Status.SOLVED), dtype=torch.int64)
    s = torch.where(active.G, 0.0, s.clamp(min=0))
    return [x, y, z, z_lb, z_ub, s, *strongly, status, torch.ones_like(status), residuals], accepted


def is_convex(Q: Tensor) -> Tensor:
    """``(B,)``: what the solver takes for positive semidefinite; once for all samples that share one `Q`."""
    if Q.stride(0) == 0 and Q.shape[0] > 1:
        return is_convex(Q[:1]).expand(Q.shape[0])
    shift = max(1e-8, 4 * Q.shape[-1] * torch.finfo(Q.dtype).eps)
    scaled = Q.double()
    scaled = scaled + scaled.mT
    scaled /= scaled.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    scaled.diagonal(dim1=-2, dim2=-1).add_(shift)
    return torch.linalg.cholesky_ex(scaled).info == 0


def _relative(violation: Tensor, matrix: Tensor, right: Tensor, product: Tensor) -> Tensor:
    """By row, against what it is a difference of; a row of small numbers is small against itself (IPM-10)."""
    unit = matrix.abs().amax(-1).clamp(max=1) if matrix.shape[-2] else violation
    scale = unit + torch.where(right.isfinite(), right.abs(), 0.0) + product.abs()
    return torch.where(violation > 0, violation / scale, 0.0)


def _beyond(left: Tensor, right: Tensor) -> Tensor:
    """How far a bound is missed, relative; of a bound that is not there, nothing."""
    if left.shape != right.shape:
        return left.new_zeros(left.shape[0], 0)
    return (left - right).clamp(min=0) / (1 + torch.minimum(left.abs(), right.abs()))


def _largest(v: Tensor) -> Tensor:
    return v.abs().amax(-1, keepdim=True) if v.shape[-1] else v.new_zeros(*v.shape[:-1], 1)
