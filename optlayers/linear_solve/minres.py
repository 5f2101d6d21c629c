"""MINRES, for symmetric systems, indefinite and singular ones included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .correction import Correction, System
from .krylov import KrylovSolver, inner, none_of, ratio


class _State(NamedTuple):
    x: Tensor
    r: Tensor  # r - A x, updated
    v_old: Tensor  # Lanczos vectors, normalized
    v: Tensor
    z: Tensor  # M v
    w_old: Tensor  # search directions
    w: Tensor
    gamma: Tensor  # off-diagonal entry of the Lanczos matrix that leads to v
    eta: Tensor  # what is left of the right-hand side after the rotations
    cosines: Tensor  # (*batch, 2): of the last rotation but one, and of the last
    sines: Tensor
    stuck: Tensor


@dataclass(frozen=True)
class MINRES(KrylovSolver):
    """Minimal residuals over the Lanczos basis: ``A`` symmetric, definite or not, exact in N steps but for rounding.

    Solves singular systems that are consistent, with the solution of least norm if it starts at zero. The
    preconditioner must be symmetric positive definite.

    References: Paige and Saunders, "Solution of sparse indefinite systems of linear equations" (1975).
    """

    def prepare(self, system: System) -> Callable[[Tensor, Tensor, int], Correction]:
        def step(at: _State) -> _State:
            # Lanczos: A z = gamma_next v_next + delta v + gamma v_old
            image = system.matvec(at.z)
            delta = inner(image, at.z)
            v = image - delta * at.v - at.gamma * at.v_old
            z = system.precondition(v)
            gamma = root(inner(v, z))
            v, z = ratio(v, gamma), ratio(z, gamma)
            # The last two rotations on the new column of the tridiagonal matrix, then one that clears gamma.
            (c_old, c), (s_old, s) = at.cosines.split(1, -1), at.sines.split(1, -1)
            above = c * delta - c_old * s * at.gamma
            diagonal = root(above**2 + gamma**2)
            w = at.z - s_old * at.gamma * at.w_old - (s * delta + c_old * c * at.gamma) * at.w
            w = ratio(w, diagonal)
            # ||A r|| << ||A|| ||r||: of a singular system this r is what no step takes away, and going on diverges.
            level = torch.finfo(v.dtype).eps ** 0.5 * root(delta**2 + at.gamma**2 + gamma**2)
            stuck = root(above**2 + (c * gamma) ** 2) <= level
            c_new, s_new = ratio(above, diagonal), ratio(gamma, diagonal)
            return _State(
                x=at.x + torch.where(stuck, 0.0, c_new * at.eta) * w,
                r=torch.where(stuck, at.r, s_new**2 * at.r - c_new * s_new * at.eta * v),
                v_old=at.v,
                v=v,
                z=z,
                w_old=at.w,
                w=w,
                gamma=gamma,
                eta=-s_new * at.eta,
                cosines=torch.cat([c, c_new], -1),
                sines=torch.cat([s, s_new], -1),
                stuck=stuck.squeeze(-1),
            )

        def correct(r: Tensor, target: Tensor, spent: int) -> Correction:
            z = system.precondition(r)
            eta = root(inner(r, z))
            zero, none = torch.zeros_like(r), torch.zeros_like(eta)
            start = _State(
                x=zero,
                r=r,
                v_old=zero,
                v=ratio(r, eta),
                z=ratio(z, eta),
                w_old=zero,
                w=zero,
                gamma=none,
                eta=eta,
                cosines=torch.ones_like(torch.cat([eta, eta], -1)),
                sines=torch.cat([none, none], -1),
                stuck=none_of(target),
            )
            return self.run(step, start, target, self.budget(system, spent))

        return correct


def root(square: Tensor) -> Tensor:
    """Square root; 0, with a zero gradient, where there is none: a preconditioner that is not positive ends there."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
