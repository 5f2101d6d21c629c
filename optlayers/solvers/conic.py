"""Cone programs as data: the cones, what a solver of a batch of programs is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from .._base.pattern import Pattern, SparseArray


@dataclass(frozen=True)
class Cones:
    r"""A product of cones; the rows of ``A`` and ``b`` come in the order of these fields.

    Args:
        zero: rows with ``s = 0``, that is, equations.
        nonneg: rows with ``s >= 0``.
        second_order: sizes ``d``: rows ``(t, y)`` with ``t >= ||y||``, ``d - 1`` of them in ``y``.
        psd: orders ``k``: a positive semidefinite ``k x k`` matrix as ``k (k + 1) / 2`` rows, the upper triangle column
            by column ``(11, 12, 22, 13, 23, 33, ...)`` with entries off the diagonal times :math:`\sqrt2`, so that
            inner products are those of matrices.
        exponential: triples ``(x, y, z)`` with ``y exp(x / y) <= z``, ``y > 0``, and their limits.
        power: exponents ``a`` in (0, 1), one a triple ``(x, y, z)`` with ``x^a y^(1 - a) >= |z|``, ``x, y >= 0``.

    Raises:
        ValueError: a negative count or size, or an exponent that is not between 0 and 1.
    """

    zero: int = 0
    nonneg: int = 0
    second_order: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exponential: int = 0
    power: tuple[float, ...] = ()

    def __post_init__(self):
        for name in ("second_order", "psd", "power"):  # a list is welcome, but does not hash
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("zero", "nonneg", "exponential"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"Cones: {name} is {getattr(self, name)}; expected a number of rows that is not negative."
                )
        for name in ("second_order", "psd"):
            if any(size < 1 for size in getattr(self, name)):
                raise ValueError(f"Cones: {name} is {getattr(self, name)}; expected sizes of at least one.")
        if not all(0 < exponent < 1 for exponent in self.power):
            raise ValueError(f"Cones: power is {self.power}; expected exponents between 0 and 1.")

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.starts[-1]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where the rows of each field start; the last is the number of rows."""
        psd = sum(k * (k + 1) // 2 for k in self.psd)
        sizes = (self.zero, self.nonneg, sum(self.second_order), psd, 3 * self.exponential, 3 * len(self.power))
        return tuple(int(start) for start in np.cumsum([0, *sizes]))


class ConeProgram(NamedTuple):
    """A batch of programs ``min x'Px/2 + q'x  s.t.  Ax + s = b, s in K`` on one pattern: float64, all finite.

    Arrays have one batch dimension, of size 1 where they are shared. ``P`` counts with its symmetric part.
    """

    cones: Cones
    on_P: Pattern
    P: np.ndarray
    q: np.ndarray
    on_A: Pattern
    A: np.ndarray
    b: np.ndarray
    count: int


class ConePoint(NamedTuple):
    """What a solver found: arrays with the batch first, and a status and a number of iterations a sample.

    A sample that is PRIMAL_INFEASIBLE has its certificate in ``z``: ``A'z = 0, b'z < 0, z in K*``. One that is
    DUAL_INFEASIBLE has its in ``x``: ``Px = 0, q'x < 0, -Ax in K``.
    """

    x: np.ndarray
    s: np.ndarray
    z: np.ndarray
    status: np.ndarray
    iterations: np.ndarray


class ConeSolver(Protocol):
    """What ``solver=`` may be for cone programs."""

    @property
    def eps(self) -> float:
        """What the relative residuals of the final point must not exceed for a sample to count as solved."""
        ...

    def solve_cones(self, program: ConeProgram) -> ConePoint:
        """Solve a batch; the points are refined later, and judged by their residuals whatever the status says."""
        ...


class Columns:
    """The compressed columns of a batch of matrices on one pattern, without what is zero in every sample.

    Args:
        symmetric: take the upper triangle of the symmetric part.
    """

    def __init__(self, pattern: Pattern, values: np.ndarray, symmetric: bool = False):
        rows, cols = pattern.rows, pattern.cols
        scale = np.ones(len(rows))
        if symmetric:
            scale[rows != cols] = 0.5
            rows, cols = np.minimum(rows, cols), np.maximum(rows, cols)
        kept = np.flatnonzero((values != 0).any(0))
        place, slot = np.unique(cols[kept] * pattern.shape[0] + rows[kept], return_inverse=True)
        gather: SparseArray = sp.csr_array((scale[kept], (kept, slot)), shape=(len(rows), len(place)))
        self.data = values @ gather if len(place) else np.zeros((len(values), 0))
        cols, self.indices = np.divmod(place, max(pattern.shape[0], 1))
        self.indptr = np.searchsorted(cols, np.arange(pattern.shape[1] + 1))
        self.shape = pattern.shape

    def sample(self, index: int) -> SparseArray:
        """One matrix of the batch."""
        data = self.data[index if len(self.data) > 1 else 0]
        return sp.csc_array((data, self.indices, self.indptr), shape=self.shape)
