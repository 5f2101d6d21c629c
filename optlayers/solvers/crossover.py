"""From an approximate solution of a sparse quadratic program to the exact one on its active set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._base.pattern import SparseArray
from ..linear_solve.sparse import SaddleFactor
from .proximal_newton import ProximalNewton
from .sparse import SparsePoint, SparseProgram

EXACT = 1e-12  # residual at which nothing is left to gain
OUTER_STEPS = 15


class Vertex(NamedTuple):
    """A point, the inequalities that count as active there (IPM-16), and how exact it is."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    active: np.ndarray
    residuals: np.ndarray  # (3,) relative: primal, dual, complementarity


def crossover(program: SparseProgram, point: SparsePoint) -> tuple[Vertex, SaddleFactor]:
    """Move from `point` to a KKT point and its active set; return it with the factorization of its KKT matrix.

    First the active set that `point` shows is tried, with multipliers of least norm (IPM-11): that is exact unless the
    program is degenerate or the point not near enough. If it is not, proximal steps go on from `point`.

    Raises:
        RuntimeError: a KKT matrix cannot be factored.
    """
    method = ProximalNewton(program)
    best = _vertex(program, point.x, point.y, point.z)
    x, y, z, active = best[:4]
    factor = method.factor(active)
    best = min(best, _least_norm(method, factor, best, active), key=_worst)
    if _worst(best) > EXACT:
        last = np.inf
        for _ in range(OUTER_STEPS):
            x, y, z, active, factor, factorizations = method.step(x, y, z)
            now = _vertex(program, x, y, z)
            best = min(best, now, key=_worst)
            if _worst(best) <= EXACT or (factorizations == 1 and _worst(now) > 0.5 * last):
                break
            last = _worst(now)
        best = min(best, _least_norm(method, factor, best, active), key=_worst)
    if not np.array_equal(best.active, active):
        factor = method.factor(best.active)
    return best, factor


def _least_norm(method: ProximalNewton, factor: SaddleFactor, at: Vertex, active: np.ndarray) -> Vertex:
    """The KKT point on an active set with the multipliers of least norm."""
    nothing = np.zeros_like(at.y), np.zeros_like(at.z)
    target = method.newton_target(lambda rhs: factor.solve(rhs)[0], active, at.x, *nothing)
    return _vertex(method.program, *target)


def _worst(vertex: Vertex) -> float:
    return float(np.nan_to_num(vertex.residuals, nan=np.inf).max())


def _vertex(program: SparseProgram, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Vertex:
    """Measure a point by (IPM-10), with the largest entry of a row, and of the objective, as units."""
    Q, p, E, e, C, c = program
    z = np.maximum(z, 0.0)
    terms = [Q @ x, p, E.T @ y + C.T @ z]
    force = max(np.abs(term).max(initial=0.0) for term in terms)
    unit = min(1.0, np.abs(p).max(initial=0.0) or 1.0)
    Ex, Cx = E @ x, C @ x
    unit_E, unit_C = _row_units(E), _row_units(C)
    s = c - Cx
    gap_E = np.abs(e - Ex) / (np.minimum(1.0, unit_E) + np.abs(e) + np.abs(Ex))
    gap_C = np.maximum(-s, 0.0) / (np.minimum(1.0, unit_C) + np.abs(c) + np.abs(Cx))
    largest = max(np.abs(y).max(initial=0.0), z.max(initial=0.0))
    slack = s / (np.minimum(1.0, unit_C) + np.abs(c))
    residuals = [
        max(gap_E.max(initial=0.0), gap_C.max(initial=0.0)),
        np.abs(sum(terms)).max(initial=0.0) / (unit + force),
        np.abs(np.minimum(slack, z / (1.0 + largest))).max(initial=0.0),
    ]
    # In units of the row: multiplier times its row is a force, slack over its row a length.
    active = (z * unit_C**2 > s * max(force, unit)) & (z > 1e-10 * (1.0 + largest))
    return Vertex(x, y, z, active, np.array(residuals))


def _row_units(matrix: SparseArray) -> np.ndarray:
    """The largest entry of each row; one where a row is empty."""
    largest = abs(matrix).max(axis=1).toarray().ravel() if matrix.shape[0] else np.zeros(0)
    return np.where(largest > 0, largest, 1.0)
