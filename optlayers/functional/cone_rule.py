"""How a cone program is differentiated: its residual, what follows from it, its linear solver, a compiled backward."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from ..implicit import Implicit
from ..implicit.opaque import opaque
from ..implicit.residual import ResidualRule, Solve
from ..implicit.rule import Rule, attach
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
    """(CONE-3) with the slacks and multipliers that follow from its ``v`` (CONE-11), ``x = (x, v, s, z)``.

    The arguments are the data ``P, q, A, b`` and the units ``w``.
    """

    differentiable = [True] * 4 + [False]

    def __init__(self, structure: Structure):
        self.structure = structure

    def residual(self, x, args):
        *point, s, z = x
        w = args[4]
        found = terms(self.structure, point, args)
        return [*residual(found, args), s - found.s / w, z - w * (found.s - point[1])]

    def solve_linear(self, x, args, rhs, transpose):
        P, _, A, _, w = args

        def solve(count: int, tensors: list[Tensor]) -> list[Tensor]:
            v, P, A, w, *right = tensors
            v, w, *right = (tensor.expand(count, -1) for tensor in (v, w, *right))
            u, error = solve_system(self.structure, P, A, v, w, right, transpose)
            warn_if_singular(error)
            return u

        return opaque(solve, rhs[0].shape[0], [x[1], P, A, w, *rhs])

    def vjp(self, x, args, cotangent, needed):
        kkt = self.structure.kkt
        mapped = any(part is not None and is_legacy_batchedtensor(part) for part in cotangent)
        if kkt is None or x[0].device.type != "cpu" or mapped:
            return None
        P, q, A, b, w = args
        (u, t, _, _), error = kkt.solve(P, A, x[1], w, cotangent, transpose=True)
        warn_if_singular(error)
        t = w * t
        grad_P, grad_A = kkt.gradients(x[0], x[3], u, t, P if needed[0] else None, A if needed[2] else None)
        vectors = [
            grad.sum(0, keepdim=True) if grad.shape[0] != like.shape[0] else grad for grad, like in ((-u, q), (t, b))
        ]
        grads = [grad_P, vectors[0], grad_A, vectors[1], None]
        return [grad if need else None for grad, need in zip(grads, needed, strict=True)]


def _summed(grad: Tensor, like: Tensor) -> Tensor:
    """A gradient a sample, or their sum for what the batch shares."""
    return grad if grad.shape[0] == like.shape[0] else grad.sum(0, keepdim=True)


def solve_system(
    structure: Structure, P: Tensor, A: Tensor, v: Tensor, w: Tensor, rhs: Sequence[Tensor], transpose: bool
) -> tuple[list[Tensor], Tensor]:
    """The linear system of :class:`ConeRule` at ``v``, or its transpose, solved; the last is its relative residual."""
    kkt = structure.kkt
    if kkt is not None and v.device.type == "cpu":
        return kkt.solve(P, A, v, w, rhs, transpose)
    r_x, r_v, r_s, r_z = rhs
    system = ConeSystem(structure, v, P, A, w)
    if transpose:
        r_v = r_v + system.derivative(r_s / w + w * r_z) - w * r_z
        d_x, d_v, error = system.solve(r_x, r_v, transpose)
        return [d_x, d_v, r_s, r_z], error
    d_x, d_v, error = system.solve(r_x, r_v, transpose)
    moved = system.derivative(d_v)
    return [d_x, d_v, r_s + moved / w, r_z + w * (moved - d_v)], error


class PlainRule(ResidualRule):
    """(CONE-3) for a linear solver of the user's choice."""

    def __init__(self, structure: Structure, solve: Solve):
        def whole(x, args):
            return residual(terms(structure, x, args), args)

        super().__init__(whole, list, solve, ConeRule.differentiable)


def attach_point(
    structure: Structure, adjoint: Implicit, point: Sequence[Tensor], args: Sequence[Tensor]
) -> list[Tensor]:
    """``x, s, z`` of ``point = (x, v, s, z)``, new tensors, with their derivatives with respect to ``P, q, A, b``."""
    if adjoint.linear_solve is None:
        x, _, s, z = attach(ConeRule(structure), point, args, fresh=True)
        return [x, s, z]
    x, v = attach(PlainRule(structure, adjoint.linear_solve), point[:2], args)
    scaled, w = project(structure.cones, v), args[4]
    return [x, scaled / w, w * (scaled - v)]


def warn_if_singular(error: Tensor) -> None:
    """Warn where the relative residual of a system says that it has no solution, hence the point no derivative."""
    if bool((error <= 1e-6).all()):
        return
    samples = (error > 1e-6).nonzero().flatten().tolist()
    if samples:
        warnings.warn(
            f"solve_cone: no exact derivative exists for samples {samples[:10]}: their linear system is singular (the "
            f"solution or its multipliers are not unique), with relative residual {error.max().item():.1e}. The "
            f"least-squares one of least norm was used. Make P positive definite, or remove dependent constraints.",
            ConvergenceWarning,
            stacklevel=2,
        )
