"""Canonical programs whose cones are zero and nonnegative only, that is quadratic programs, by :func:`solve_qp`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base.pattern import Pattern
from .._base.status import Status
from ..functional import QPSolution, solve_qp
from ..functional.sparse_qp import solve_values
from ..solvers import Cones
from .canonical import Canonical

DENSE_VARIABLES = 300  # up to so many the dense engine is faster whatever the pattern
DENSE_SHARE = 0.1  # of entries that may be nonzero, from which on it is so at any size


class Answer(NamedTuple):
    """Tensors with one batch dimension; ``z`` has the rows of the cone program."""

    x: Tensor
    z: Tensor
    status: Tensor
    iterations: Tensor
    residuals: Tensor


class Rows(NamedTuple):
    """Some rows of ``A`` as a matrix of their own: which rows, which of the entries, and where those are."""

    rows: np.ndarray
    entries: np.ndarray
    pattern: Pattern

    @classmethod
    def of(cls, on_A: Pattern, rows: np.ndarray) -> Rows:
        number = np.full(on_A.shape[0], -1)
        number[rows] = np.arange(len(rows))
        entries = np.flatnonzero(number[on_A.rows] >= 0)
        return cls(rows, entries, Pattern(number[on_A.rows[entries]], on_A.cols[entries], (len(rows), on_A.shape[1])))


class Bounds(NamedTuple):
    """Rows that bound one variable by a constant multiple of it: rows, variables, coefficients."""

    rows: np.ndarray
    variables: np.ndarray
    coefficients: np.ndarray


class QuadraticProgram:
    """The rows of a program sorted into equations, inequalities and bounds.

    Args:
        constants: ``(nnz,)`` the entries of ``A`` that no parameter enters; NaN for the others.
    """

    def __init__(self, cones: Cones, on_P: Pattern, on_A: Pattern, constants: np.ndarray):
        self.on_P = on_P
        self.lower, self.upper = (_bounds(cones, on_A, constants, sign) for sign in (-1, 1))
        self.crossing = len(self.lower.rows) > 0 and len(self.upper.rows) > 0
        rest = np.setdiff1d(np.arange(cones.zero, cones.rows), np.r_[self.lower.rows, self.upper.rows])
        self.equations, self.inequalities = Rows.of(on_A, np.arange(cones.zero)), Rows.of(on_A, rest)
        m, n = on_A.shape
        entries = len(self.equations.entries) + len(self.inequalities.entries)
        self.dense = n <= DENSE_VARIABLES or entries + len(on_P.rows) > DENSE_SHARE * (m + n) * n

    def solve(self, data: Sequence[Tensor], count: int) -> Answer:
        """Solve for values ``P, q, A, b`` with a batch dimension of size `count` or one; nothing is thrown."""
        P, q, A, b = data
        n = q.shape[-1]
        parts = [self.inequalities, self.equations]
        values = [A[:, _index(part.entries, A)] for part in parts]
        sides = [b[:, _index(part.rows, b)] for part in parts]
        bounds = [self._bound(self.lower, b, n, -torch.inf), self._bound(self.upper, b, n, torch.inf)]
        if self.dense:
            q = q.expand(count, n)
            G, E = (_dense(part.pattern, value) for part, value in zip(parts, values, strict=True))
            lb, ub = (bound if bound.shape[-1] else None for bound in bounds)
            found = solve_qp(_dense(self.on_P, P), q, G, sides[0], E, sides[1], lb=lb, ub=ub, throw=False)
        else:
            patterns = [self.on_P, *(part.pattern for part in parts)]
            entries = [P, q, values[0], sides[0], values[1], sides[1], *bounds]
            found = solve_values(patterns, entries, torch.Size([count]), throw=False)
        status = found.status
        if self.crossing:  # bounds that cross are a mistake in what solve_qp is given, here a problem without solution
            lb, ub = bounds
            status = torch.where((lb > ub).any(-1).expand_as(status), int(Status.PRIMAL_INFEASIBLE), status)
        return Answer(found.x, self._multipliers(found, b.shape[-1]), status, found.iterations, found.residuals)

    def _multipliers(self, found: QPSolution, rows: int) -> Tensor:
        """Those of all rows, from those of equations, inequalities and bounds."""
        z = found.x.new_zeros(len(found.x), rows)
        z = z.index_copy(1, _index(self.equations.rows, z), found.y)
        z = z.index_copy(1, _index(self.inequalities.rows, z), found.z)
        for bounds, multipliers in ((self.lower, found.z_lb), (self.upper, found.z_ub)):
            if len(bounds.rows):
                scale = _index(abs(bounds.coefficients), z)
                z = z.index_copy(1, _index(bounds.rows, z), multipliers[:, _index(bounds.variables, z)] / scale)
        return z

    def _bound(self, bounds: Bounds, b: Tensor, n: int, absent: float) -> Tensor:
        """Bounds of all variables; no entries if none is bounded."""
        if not len(bounds.rows):
            return b[:, :0]
        values = b[:, _index(bounds.rows, b)] / _index(bounds.coefficients, b)
        return b.new_full((len(b), n), absent).index_copy(1, _index(bounds.variables, b), values)


def quadratic_program(program: Canonical) -> QuadraticProgram | None:
    """The program as a quadratic one, if it is one."""
    cones = program.cones
    if cones.rows > cones.zero + cones.nonneg:
        return None
    constants = program.A.constant.copy()
    for _, map_ in program.A.maps:
        constants[map_.rows] = np.nan
    return QuadraticProgram(cones, program.on_P, program.on_A, constants)


def _bounds(cones: Cones, on_A: Pattern, constants: np.ndarray, sign: int) -> Bounds:
    """One row for each variable that is bounded from this side."""
    alone = np.bincount(on_A.rows, minlength=cones.rows)[on_A.rows] == 1
    fits = np.flatnonzero(alone & (on_A.rows >= cones.zero) & (np.sign(constants) == sign))
    variables, first = np.unique(on_A.cols[fits], return_index=True)
    return Bounds(on_A.rows[fits[first]], variables, constants[fits[first]])


def _dense(pattern: Pattern, values: Tensor) -> Tensor:
    place = _index(pattern.rows * pattern.shape[1] + pattern.cols, values)
    flat = values.new_zeros(len(values), pattern.shape[0] * pattern.shape[1])
    return flat.index_add(1, place, values).unflatten(1, pattern.shape)


def _index(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)
