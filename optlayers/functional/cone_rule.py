"""How a cone program is differentiated: the residual in ``(x, v)``, ``v = s - z``, and its linear solver."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..implicit import Implicit
from ..implicit.opaque import opaque
from ..implicit.residual import ResidualRule
from ..implicit.rule import Rule
from ..linear_solve import ConvergenceWarning
from .cone_blocks import project
from .cone_data import Structure
from .cone_system import ConeSystem


class Terms(NamedTuple):
    """What the residual is made of."""

    Px: Tensor
    ATz: Tensor
    Ax: Tensor
    s: Tensor  # in units of the rows: ``w s``


def terms(structure: Structure, point: Sequence[Tensor], args: Sequence[Tensor]) -> Terms:
    """At ``point = (x, v)`` with ``v = w s - z / w``."""
    x, v = point
    P, _, A, _, w = args
    on_P, on_A = structure.on_P, structure.on_A
    s = project(structure.cones, v)
    Px = 0.5 * (on_P.mv(P, x) + on_P.transposed().mv(P, x))  # only P's symmetric part enters
    return Terms(Px, on_A.transposed().mv(A, w * (s - v)), on_A.mv(A, x), s)


def residual(found: Terms, args: Sequence[Tensor]) -> list[Tensor]:
    """(CONE-3), which vanishes at a solution."""
    _, q, _, b, w = args
    return [found.Px + q + found.ATz, w * (found.Ax - b) + found.s]


class ConeRule(Rule):
    """The linear system of (CONE-3), reduced to a symmetric one."""

    differentiable = [True] * 4 + [False]

    def __init__(self, structure: Structure):
        self.structure = structure

    def residual(self, x, args):
        return residual(terms(self.structure, x, args), args)

    def solve_linear(self, x, args, rhs, transpose):
        P, _, A, _, w = args

        def solve(count: int, tensors: list[Tensor]) -> list[Tensor]:
            v, P, A, w, r1, r2 = tensors
            v, w, r1, r2 = (tensor.expand(count, -1) for tensor in (v, w, r1, r2))
            u1, u2, error = ConeSystem(self.structure, v, P, A, w).solve(r1, r2, transpose)
            warn_if_singular(error)
            return [u1, u2]

        return opaque(solve, rhs[0].shape[0], [x[1], P, A, w, *rhs])


def cone_rule(structure: Structure, adjoint: Implicit) -> Rule:
    """The rule for the linear solver that `adjoint` names, or for the problem's own."""
    rule = ConeRule(structure)
    if adjoint.linear_solve is None:
        return rule
    return ResidualRule(rule.residual, list, adjoint.linear_solve, rule.differentiable)


def warn_if_singular(error: Tensor) -> None:
    """Warn where the relative residual of a system says that it has no solution, hence the point no derivative."""
    samples = (error > 1e-6).nonzero().flatten().tolist()
    if samples:
        warnings.warn(
            f"solve_cone: no exact derivative exists for samples {samples[:10]}: their linear system is singular (the "
            f"solution or its multipliers are not unique), with relative residual {error.max().item():.1e}. The "
            f"least-squares one of least norm was used. Make P positive definite, or remove dependent constraints.",
            ConvergenceWarning,
            stacklevel=2,
        )
