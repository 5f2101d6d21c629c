"""Conjugate gradients on the normal equations, for any matrix, also a rectangular one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.tree import Tree
from .correction import Correction, System
from .krylov import KrylovSolver, inner, none_of, ratio
from .operator import Operator, transpose


class _State(NamedTuple):
    x: Tensor
    defect: Tensor  # r - A x, updated
    r: Tensor  # the residual that has to vanish: the defect, or A' defect
    p: Tensor  # search direction
    sz: Tensor  # s' M M' s with s = A' defect
    stuck: Tensor


@dataclass(frozen=True)
class NormalCG(KrylovSolver):
    """Conjugate gradients on ``A' A x = A' b`` in the form CGLS, which never builds ``A' A``.

    A square system is judged by ``||b - A x|| / ||b||``, as everywhere. With a ridge (``(A' A + ridge I) x = A' b``) or
    a rectangular ``A`` there may be no such ``x``: it is then the least-squares one, and ``residual`` is that of the
    normal equations. Give ``init`` where the unknown is not shaped like ``b``. The preconditioner is one of ``A``, near
    its inverse; it is applied with its transpose.

    References: Bjorck, "Numerical Methods for Least Squares Problems" (1996), section 7.4.
    """

    def system(self, operator: Operator, b: Tree, init: Tree | None) -> System:
        rhs, unravel_rhs = self._ravel("b", b)
        start, unravel = (None, unravel_rhs) if init is None else self._ravel("init", init)
        like, rows = (rhs if start is None else start), rhs.shape[-1]
        size = like.shape[-1]
        matvec = self._flat("matvec", operator.matvec, unravel, rows)
        if operator.rmatvec is None:
            rmatvec = transpose(matvec, like)
        else:
            rmatvec = self._flat("rmatvec", operator.rmatvec, unravel_rhs, size)
        if self.preconditioner is None:

            def precondition(s: Tensor) -> Tensor:
                return s
        else:
            inverse = self._flat("preconditioner", self.preconditioner, unravel_rhs, size)
            inverse_t = transpose(inverse, rhs)

            def precondition(s: Tensor) -> Tensor:  # near the inverse of A' A
                return inverse(inverse_t(s))

        if self.ridge == 0.0:
            return System(matvec, rhs, start, unravel, size, precondition, rmatvec, least_squares=rows != size)
        # Least squares on [A; sqrt(ridge) I] x = [b; 0] has the ridge in its normal equations: (LIN-5).
        root = sqrt(self.ridge)
        return System(
            lambda v: torch.cat([matvec(v), root * v], dim=-1),
            torch.cat([rhs, torch.zeros_like(like)], dim=-1),
            start,
            unravel,
            size,
            precondition,
            lambda v: rmatvec(v[..., :rows]) + root * v[..., rows:],
            least_squares=True,
        )

    def prepare(self, system: System) -> Callable[[Tensor, Tensor, int], Correction]:
        def step(at: _State) -> _State:
            image = system.matvec(at.p)
            curvature = inner(image, image)
            size = ratio(at.sz, curvature)
            defect = at.defect - size * image
            s = system.rmatvec(defect)
            z = system.precondition(s)
            sz = inner(s, z)
            # s = 0 with a defect left over: the least-squares solution of a square system that has no other.
            stuck = ((curvature == 0) | (sz == 0)).squeeze(-1)
            p = z + ratio(sz, at.sz) * at.p
            return _State(at.x + size * at.p, defect, s if system.least_squares else defect, p, sz, stuck)

        def correct(defect: Tensor, target: Tensor, spent: int) -> Correction:
            s = system.rmatvec(defect)
            z = system.precondition(s)
            r = s if system.least_squares else defect
            start = _State(torch.zeros_like(s), defect, r, z, inner(s, z), none_of(target))
            return self.run(step, start, target, self.budget(system, spent))

        return correct
