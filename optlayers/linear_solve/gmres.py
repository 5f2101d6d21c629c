"""Restarted GMRES, for any square system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import choose, iterate, surely_none
from .._base.numeric import matvec
from .correction import Correction, System
from .krylov import KrylovSolver, inner, length, none_of


class _State(NamedTuple):
    x: Tensor
    r: Tensor  # r - A x, computed anew in each cycle
    products: Tensor  # (*batch): Arnoldi steps so far
    stuck: Tensor


@dataclass(frozen=True)
class GMRES(KrylovSolver):
    """Minimal residuals over an Arnoldi basis of ``restart`` vectors, preconditioned from the right: any square ``A``.

    Takes ``restart + 1`` vectors of memory; exact in N steps, but for rounding, if ``restart >= N``. A cycle that
    gains nothing would repeat itself for ever: it ends the sample, unconverged.

    Args:
        restart: Arnoldi steps in a cycle. ``maxiter`` counts them too, and is rounded up to whole cycles.

    References: Saad and Schultz, "GMRES: a generalized minimal residual algorithm" (1986).
    """

    restart: int = field(default=30, kw_only=True)

    def prepare(self, system: System) -> Callable[[Tensor, Tensor, int], Correction]:
        def correct(r: Tensor, target: Tensor, spent: int) -> Correction:
            budget = self.budget(system, spent)
            width = max(min(self.restart, system.size, budget), 1)

            def cycle(at: _State) -> _State:
                gain, products = krylov_step(system, at.r, width, target)
                left = r - system.matvec(at.x + gain)
                stuck = length(left) >= (1 - torch.finfo(r.dtype).eps) * length(at.r)
                x, left = choose(stuck, (at.x, at.r), (at.x + gain, left))
                return _State(x, left, at.products + products, stuck)

            start = _State(torch.zeros_like(r), r, torch.zeros_like(target, dtype=torch.int64), none_of(target))
            end = iterate(cycle, start, lambda at: (length(at.r) <= target) | at.stuck, -(-budget // width)).state
            return Correction(end.x, end.products, length(end.r) <= target)

        return correct


def krylov_step(system: System, r: Tensor, width: int, target: Tensor) -> tuple[Tensor, Tensor]:
    """The ``x`` that minimizes ``||r - A x||`` over Arnoldi vectors, and how many of them there were.

    There are `width` of them, or as many as bring a sample below its target.
    """
    eps = torch.finfo(r.dtype).eps
    live = length(r)[..., None] > 0
    size = torch.linalg.vector_norm(r, dim=-1, keepdim=True)
    basis = (r / torch.where(live, size, 1.0))[..., None, :]  # (*batch, j, N)
    columns, products = [], torch.zeros_like(live.squeeze(-1), dtype=torch.int64)
    # The row vector that the Hessenberg matrix annihilates, with a 1 in front: the least residual that its columns
    # leave is size / ||null||.
    null = torch.ones_like(size)
    together = surely_none(~live)  # so far all samples go on, and no mask is needed
    for j in range(width):
        products = products + live.squeeze(-1)
        w = system.matvec(system.precondition(basis[..., j, :]))
        full = length(w)
        # Gram-Schmidt twice: once leaves the basis orthogonal only up to the conditioning.
        h = matvec(basis, w)
        w = w - _combine(basis, h)
        more = matvec(basis, w)
        w = w - _combine(basis, more)
        h = h + more
        rest = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
        grows = rest > 10 * eps * full[..., None]
        if together:
            with torch.no_grad():
                longer = torch.cat([null, -inner(null, h) / rest], -1)
                reached = size.squeeze(-1) <= target * torch.linalg.vector_norm(longer, dim=-1)
            together = surely_none(reached[..., None] | ~grows)
            if together:
                columns.append((h, rest))
                null, basis = longer, torch.cat([basis, (w / rest)[..., None, :]], -2)
                continue
        grows = live & grows
        # Once A maps the basis into itself (the happy breakdown) its sample is complete. Later vectors are zero, and
        # their columns unit vectors in rows of their own: full rank, and out of the way of the others.
        below = torch.where(live, torch.where(grows, rest, 0.0), 1.0)
        columns.append((h, below))
        with torch.no_grad():
            ended = torch.where(live & ~grows, torch.inf, -inner(null, h) / torch.where(below > 0, below, 1.0))
            null = torch.cat([null, ended], -1)
            reached = size.squeeze(-1) <= target * torch.linalg.vector_norm(null, dim=-1)
        if surely_none(~reached):
            break
        live = grows & ~reached[..., None]
        direction = torch.where(live, w, 0.0) / torch.where(live, rest, 1.0)
        basis = torch.cat([basis, direction[..., None, :]], -2)
    last = len(columns)
    padded = [torch.cat([h, below, h.new_zeros((*h.shape[:-1], last - h.shape[-1]))], -1) for h, below in columns]
    hessenberg = torch.stack(padded, -1)  # (*batch, last + 1, last)
    q, upper = torch.linalg.qr(hessenberg)
    weights = small_solve(upper, q[..., :1, :].mT * size[..., None]).squeeze(-1)
    return system.precondition(_combine(basis[..., :last, :], weights)), products


def _combine(basis: Tensor, weights: Tensor) -> Tensor:
    return (weights[..., None, :] @ basis).squeeze(-2)


def small_solve(upper: Tensor, rhs: Tensor) -> Tensor:
    """Back substitution that leaves out a vanishing pivot, which a singular ``A`` has, with its unknown at 0."""
    pivots = upper.diagonal(dim1=-2, dim2=-1)
    eps = torch.finfo(upper.dtype).eps
    # The pivot of a singular A is not zero but some rounding; dividing by it would drown the whole cycle.
    void = pivots.abs() <= 100 * upper.shape[-1] * eps * pivots.abs().amax(-1, keepdim=True)
    upper = upper + torch.diag_embed(torch.where(void, 1.0 - pivots, 0.0))
    return torch.linalg.solve_triangular(upper, torch.where(void[..., None], 0.0, rhs), upper=True)
