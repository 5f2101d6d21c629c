"""One sparse quadratic program with bounds and infinite right-hand sides: to the plain rows a solver sees, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from .._base.pattern import SparseArray
from .._base.status import Status
from ..linear_solve.sparse import SaddleFactor, is_positive_semidefinite
from .crossover import crossover
from .sparse import SparseProgram, SparseSolver

ABSENT = 1e18  # a bound so far away is no bound: data files write 1e20 for infinity


class SparseSample(NamedTuple):
    """How one sample ended. Multipliers are in one list ``(y, z, z_lb, z_ub)``, as are the masks over them."""

    x: np.ndarray
    multipliers: np.ndarray
    active: np.ndarray  # bool; all of y
    status: Status
    iterations: int
    residuals: np.ndarray
    kkt: ActiveSystem | None = None  # None unless solved


class ActiveSystem(NamedTuple):
    """The factored KKT system on the active set: its rows are entries of the list of multipliers, up to sign."""

    factor: SaddleFactor
    index: np.ndarray
    sign: np.ndarray

    def solve(self, r_x: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Solve for ``(d_x, d)``, with zeros in place of inactive rows; the last is the relative residual."""
        u, error = self.factor.solve(np.concatenate([r_x, self.sign * r[self.index]]))
        d = np.zeros_like(r)
        d[self.index] = self.sign * u[len(r_x) :]
        return u[: len(r_x)], d, error


def solve_sample(solver: SparseSolver, Q, p, G, h, A, b, lb, ub) -> SparseSample:
    """Solve one program given in scipy matrices and float64 vectors; `lb` and `ub` may be empty."""
    sizes = len(p), len(b) + len(h) + len(lb) + len(ub)
    failed = SparseSample(
        np.zeros(sizes[0]), np.zeros(sizes[1]), np.zeros(sizes[1], bool), Status.INVALID_INPUT, 0, np.full(3, np.inf)
    )
    lower = lb if len(lb) else np.full(len(p), -np.inf)
    upper = ub if len(ub) else np.full(len(p), np.inf)
    if not _valid(Q, p, G, h, A, b, lower, upper):
        return failed

    fixed = np.flatnonzero(lower == upper)
    above, below = (np.flatnonzero((np.abs(bound) < ABSENT) & (lower < upper)) for bound in (upper, lower))
    rows = np.flatnonzero(h < ABSENT)
    unit: SparseArray = sp.csr_array(sp.eye_array(len(p)))
    program = SparseProgram(
        Q,
        p,
        sp.vstack([A, unit[fixed]], format="csr"),
        np.concatenate([b, upper[fixed]]),
        sp.vstack([G[rows], -unit[below], unit[above]], format="csr"),
        np.concatenate([h[rows], -lower[below], upper[above]]),
    )
    starts = np.cumsum([0, len(b), len(h), len(lb)])
    index_E = np.concatenate([np.arange(len(b)), starts[3] + fixed])
    index_C = np.concatenate([starts[1] + rows, starts[2] + below, starts[3] + above])

    def listed(y: np.ndarray, z: np.ndarray) -> np.ndarray:
        multipliers = np.zeros(sizes[1])
        multipliers[index_E], multipliers[index_C] = y, z
        negative = starts[3] + fixed[y[len(b) :] < 0]  # of a fixed variable: the multiplier of its lower bound
        multipliers[negative - len(lb)], multipliers[negative] = -multipliers[negative], 0.0
        return multipliers

    point = solver(program)
    if point.status in (Status.PRIMAL_INFEASIBLE, Status.DUAL_INFEASIBLE):
        certificate = listed(point.y, point.z)
        largest = np.abs(certificate).max(initial=0.0) or 1.0
        return failed._replace(multipliers=certificate / largest, status=point.status, iterations=point.iterations)
    failed = failed._replace(
        status=Status.NUMERICAL_ERROR if point.status == Status.SOLVED else point.status, iterations=point.iterations
    )
    if not (np.isfinite(point.x).all() and np.isfinite(point.y).all() and np.isfinite(point.z).all()):
        return failed
    try:
        end, factor = crossover(program, point)
    except RuntimeError:  # a singular factor
        return failed
    missed = np.abs(end.x).max(initial=0.0) >= ABSENT or (G @ end.x > h)[h >= ABSENT].any()
    if missed or not end.residuals.max() <= solver.eps:
        return failed._replace(residuals=end.residuals)

    from_below = np.r_[np.zeros(len(b), bool), end.y[len(b) :] < 0]
    index = np.concatenate([index_E - len(lb) * from_below, index_C[end.active]])
    sign = np.concatenate([np.where(from_below, -1.0, 1.0), np.ones(end.active.sum())])
    on_below, on_above = np.split(end.active[len(rows) :], [len(below)])
    x = np.clip(end.x, lower, upper)
    x[below[on_below]], x[above[on_above]] = lower[below[on_below]], upper[above[on_above]]
    active = np.zeros(sizes[1], bool)
    active[index] = True
    system = ActiveSystem(factor, index, sign)
    return SparseSample(x, listed(end.y, end.z), active, Status.SOLVED, point.iterations, end.residuals, system)


def _valid(Q, p, G, h, A, b, lower, upper) -> bool:
    finite = all(np.isfinite(value).all() for value in (Q.data, p, G.data, A.data, b))
    ordered = (h > -np.inf).all() and (lower < np.inf).all() and (upper > -np.inf).all() and (lower <= upper).all()
    return bool(finite and ordered) and is_positive_semidefinite(Q)
