"""BiCGSTAB: short recurrences for nonsymmetric systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .correction import Correction, System
from .krylov import KrylovSolver, inner, length, none_of, ratio


class _State(NamedTuple):
    x: Tensor
    r: Tensor  # r - A x, updated
    shadow: Tensor  # the left starting vector
    p: Tensor  # search direction
    stuck: Tensor


@dataclass(frozen=True)
class BiCGSTAB(KrylovSolver):
    """Stabilized biconjugate gradients, preconditioned from the right: two products an iteration, constant memory.

    On a breakdown (``shadow' r``, ``shadow' A p`` or ``(A s)' s`` vanishes) it starts afresh from the residual. If both
    halves of a step break down, as they do for a rotation by a right angle, the sample ends unconverged; use GMRES.

    References: van der Vorst, "Bi-CGSTAB: a fast and smoothly converging variant of Bi-CG" (1992).
    """

    def prepare(self, system: System) -> Callable[[Tensor, Tensor, int], Correction]:
        def step(at: _State) -> _State:
            p_hat = system.precondition(at.p)
            p_image = system.matvec(p_hat)
            no_alpha = vanishes(at.shadow, p_image)
            alpha = torch.where(no_alpha, 0.0, ratio(inner(at.shadow, at.r), inner(at.shadow, p_image)))
            s = at.r - alpha * p_image
            s_hat = system.precondition(s)
            s_image = system.matvec(s_hat)
            no_omega = vanishes(s_image, s)
            omega = torch.where(no_omega, 0.0, ratio(inner(s_image, s), inner(s_image, s_image)))
            r = s - omega * s_image
            beta = ratio(inner(at.shadow, r), inner(at.shadow, at.r)) * ratio(alpha, omega)
            afresh = no_alpha | no_omega | vanishes(at.shadow, r)
            return _State(
                x=at.x + alpha * p_hat + omega * s_hat,
                r=r,
                shadow=torch.where(afresh, r, at.shadow),
                p=r + torch.where(afresh, 0.0, beta) * (at.p - omega * p_image),
                stuck=(no_alpha & no_omega).squeeze(-1),
            )

        def correct(r: Tensor, target: Tensor, spent: int) -> Correction:
            start = _State(torch.zeros_like(r), r, r, r, none_of(target))
            return self.run(step, start, target, self.budget(system, spent))

        return correct


def vanishes(a: Tensor, b: Tensor) -> Tensor:
    """(*batch, 1): the vectors are orthogonal, as far as rounding can tell."""
    eps = torch.finfo(a.dtype).eps
    return inner(a, b).abs() <= eps * (length(a) * length(b)).unsqueeze(-1)
