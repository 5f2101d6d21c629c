"""Sparse symmetric saddle-point systems, factored once and solved to rounding accuracy, on one core of the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from .._base.pattern import SparseArray

REGULARIZATION = 1e-6  # of the scaled matrix; refinement takes it out again. Below, unpivoted LU loses digits
REFINEMENT_STEPS = 30
ACCURACY = 1e-9  # relative residual up to which refinement counts as converged


class SaddleFactor:
    r"""A factorization of ``K = [[Q, C'], [C, -D]]``, with ``Q`` positive semidefinite on the null space of ``C``.

    Scaled and with ``diag(r I, -r I)`` added, ``K`` is quasidefinite: an LU factorization without pivoting
    exists in any order (Vanderbei, 1995). Iterative refinement on ``K`` itself, from zero, removes ``r``; on a singular
    but consistent system it ends at the solution of least norm, in scaled units.

    Args:
        Q: ``(n, n)`` symmetric.
        C: ``(m, n)``; rows may be dependent.
        scale: ``(n + m,)`` the scale of the unknowns, see :func:`equilibration`.
        D: ``(m,)`` a nonnegative diagonal; zero if not given. With one, ``Q`` must be positive semidefinite.

    Raises:
        RuntimeError: the regularized matrix is singular to rounding.
    """

    def __init__(self, Q: SparseArray, C: SparseArray, scale: np.ndarray, D: np.ndarray | None = None):
        self._factor(_scaled(_saddle(Q, C, D), scale), Q.shape[0], scale)

    @classmethod
    def of_scaled(cls, matrix: SparseArray, n: int, scale: np.ndarray) -> SaddleFactor:
        """The same for a ``K`` that is put together, and scaled, already."""
        made = cls.__new__(cls)
        made._factor(matrix, n, scale)
        return made

    def _factor(self, matrix: SparseArray, n: int, scale: np.ndarray) -> None:
        self.scale = scale
        self.matrix = matrix
        self.shift = np.full(len(scale), -REGULARIZATION)
        self.shift[:n] = REGULARIZATION
        self.factor = BorderedLU(sp.csc_array(self.matrix + sp.diags_array(self.shift)))

    def proximal(self, rhs: np.ndarray) -> np.ndarray:
        """Solve with the regularized matrix ``K + r diag(I, -I) / scale^2``."""
        return self.scale * self._regularized(self.scale * rhs)

    def _regularized(self, rhs: np.ndarray) -> np.ndarray:
        """``(K + R)^-1 rhs``, refined: without pivoting the factorization has errors of about rounding over r."""
        u = self.factor.solve(rhs)
        for _ in range(2):
            u = u + self.factor.solve(rhs - self.matrix @ u - self.shift * u)
        return u

    def solve(self, rhs: np.ndarray) -> tuple[np.ndarray, float]:
        """Solve ``K u = rhs``; return ``u`` and its relative residual in scaled units.

        Where that is above 1e-9 the system is inconsistent, or rounding makes it so, and ``u`` its least-squares
        solution of least norm. The null space of ``K`` consists of ``(v, 0)`` with ``Qv = Cv = 0`` and ``(0, w)`` with
        ``C'w = Dw = 0``; on both parts the regularization is a multiple of the identity. So the residual of refinement
        tends to the component of the right-hand side in the null space, and the same iteration on a solution finds what
        must be taken from it for least norm.
        """
        rhs = self.scale * rhs
        u, residual = self._refine(rhs, self.factor.solve)
        if _relative(residual, rhs) > ACCURACY:
            _, outside = self._refine(rhs, self._regularized)
            u, _ = self._refine(rhs - outside, self._regularized)
            u = u - self._refine(u, self._regularized)[1]
        return self.scale * u, _relative(rhs - self.matrix @ u, rhs)

    def _refine(self, rhs: np.ndarray, solve: Callable) -> tuple[np.ndarray, np.ndarray]:
        """Iterate ``u += (K + R)^-1 (rhs - K u)`` from zero until the residual settles; return both."""
        u, residual, change = np.zeros_like(rhs), rhs, np.inf
        for _ in range(REFINEMENT_STEPS):
            step = solve(residual)
            image = self.matrix @ step
            last, change = change, np.abs(image).max(initial=0.0)
            if not change < last:  # rounding, or NaN
                break
            u, residual = u + step, residual - image
            if change <= 1e-16 * np.abs(rhs).max():
                break
        return u, residual


def _relative(residual: np.ndarray, rhs: np.ndarray) -> float:
    size = np.abs(rhs).max(initial=0.0)
    return float(np.abs(residual).max(initial=0.0) / size) if size else 0.0


class BorderedLU:
    """LU with diagonal pivots of a symmetric matrix; its few dense rows and columns are kept as a border.

    The minimum degree ordering takes quadratic time on a dense row (the sum over all variables, say).
    """

    def __init__(self, matrix: SparseArray):
        count = np.diff(matrix.indptr)
        dense = count > 16 + 10 * np.sqrt(len(count))
        if dense.sum() > 64:  # then the matrix as a whole is dense
            dense[:] = False
        self.inner, self.outer = np.flatnonzero(~dense), np.flatnonzero(dense)
        core = matrix
        if len(self.outer):
            rows = sp.csr_array(matrix)[self.inner]
            core = sp.csc_array(rows[:, self.inner])
            self.border = rows[:, self.outer].toarray()
        self.core = splu(core, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        if len(self.outer):
            self.eliminated = self.core.solve(self.border)
            corner = sp.csr_array(matrix)[self.outer][:, self.outer].toarray()
            self.schur = corner - self.border.T @ self.eliminated

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        """Solve for one right-hand side."""
        if not len(self.outer):
            return self.core.solve(rhs)
        inner = self.core.solve(rhs[self.inner])
        outer = np.linalg.solve(self.schur, rhs[self.outer] - self.border.T @ inner)
        u = np.empty_like(rhs)
        u[self.inner], u[self.outer] = inner - self.eliminated @ outer, outer
        return u

    def positive(self) -> bool:
        """Whether all pivots are: the matrix is positive definite."""
        diagonal = np.array_equal(self.core.perm_r, self.core.perm_c) and (self.core.U.diagonal() > 0).all()
        return bool(diagonal and (not len(self.outer) or np.linalg.eigvalsh(self.schur)[0] > 0))


def is_positive_semidefinite(Q: SparseArray) -> bool:
    """Whether a symmetric matrix is, up to rounding: its largest entry times 1e-8 is added to the diagonal."""
    size = np.abs(Q.data).max(initial=0.0)
    if size == 0:
        return True
    try:
        return BorderedLU(sp.csc_array(Q / size + 1e-8 * sp.eye_array(Q.shape[0]))).positive()
    except RuntimeError:  # a pivot is exactly zero
        return False


def equilibration(Q: SparseArray, C: SparseArray, D: np.ndarray | None = None) -> np.ndarray:
    """Powers of two that bring the columns of the scaled matrix near max-norm one (Ruiz, 2001)."""
    K = abs(_saddle(Q, C, D))
    scale = np.ones(K.shape[0])
    for _ in range(5):
        norm = _scaled(K, scale).max(axis=0).toarray().ravel()
        scale /= np.sqrt(np.where(norm > 0, norm, 1.0))
    return np.exp2(np.round(np.log2(scale)))


def _saddle(Q: SparseArray, C: SparseArray, D: np.ndarray | None) -> SparseArray:
    corner = sp.csr_array((C.shape[0], C.shape[0])) if D is None else sp.csr_array(sp.diags_array(-D))
    return sp.csc_array(sp.block_array([[Q, C.T], [C, corner]]))


def _scaled(K: SparseArray, scale: np.ndarray) -> SparseArray:
    return sp.csc_array(sp.diags_array(scale) @ K @ sp.diags_array(scale))
