"""Conjugate gradients, for symmetric positive definite systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .correction import Correction, System, unrecorded
from .krylov import KrylovSolver, inner, none_of, ratio


class _State(NamedTuple):
    x: Tensor
    r: Tensor  # r - A x, updated
    p: Tensor  # search direction
    rz: Tensor  # r' M r
    stuck: Tensor


@dataclass(frozen=True)
class CG(KrylovSolver):
    """Conjugate gradients: ``A`` symmetric positive (or negative) definite, exact in N steps but for rounding.

    The preconditioner must be symmetric positive definite. A direction without curvature ends a sample unconverged.

    References: Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems" (1952).
    """

    def prepare(self, system: System) -> Callable[[Tensor, Tensor, int], Correction]:
        def step(at: _State) -> _State:
            image = system.matvec(at.p)
            curvature = inner(at.p, image)
            size = ratio(at.rz, curvature)
            r = at.r - size * image
            z = system.precondition(r)
            rz = inner(r, z)
            stuck = ((curvature == 0) | (at.rz == 0)).squeeze(-1)
            return _State(at.x + size * at.p, r, z + ratio(rz, at.rz) * at.p, rz, stuck)

        def correct(r: Tensor, target: Tensor, spent: int) -> Correction:
            budget = self.budget(system, spent)
            found = in_place(system, r, target, budget) if unrecorded(target) else None
            if found is not None:
                return found
            z = system.precondition(r)
            start = _State(torch.zeros_like(r), r, z, inner(r, z), none_of(target))
            return self.run(step, start, target, budget)

        return correct


def in_place(system: System, r: Tensor, target: Tensor, budget: int) -> Correction | None:
    """The same iteration where nothing is recorded, at a third of the overhead; None if it breaks down on the way.

    A sample that is done takes steps of zero. A breakdown (no curvature, values that overflow) shows in the residual,
    by then beyond repair: the iteration that knows how to stand still then starts over.
    """
    x, r, bound = torch.zeros_like(r), r.clone(), target.square().unsqueeze(-1)
    z = system.precondition(r)
    p, rz = z.clone(), inner(r, z)
    going = inner(r, r) > bound
    steps = torch.zeros_like(going, dtype=torch.int64)
    together = bool(going.all())
    for _ in range(budget):
        if not together and not bool(going.any()):
            break
        image = system.matvec(p)
        size = rz / inner(p, image)
        if not together:
            size = torch.where(going, size, 0.0)
        x.addcmul_(p, size)
        r.addcmul_(image, size, value=-1)
        z = system.precondition(r)
        before, rz = rz, inner(r, z)
        growth = rz / before
        if not together:
            growth = torch.where(going, growth, 0.0)
        torch.addcmul(z, p, growth, out=p)
        steps += going
        going = (rz if z is r else inner(r, r)) > bound
        together = together and bool(going.all())
    end = inner(r, r)
    if not bool(torch.isfinite(end).all()):
        return None
    return Correction(x, steps.squeeze(-1), (end <= bound).squeeze(-1))
