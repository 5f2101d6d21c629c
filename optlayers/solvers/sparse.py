"""What a solver of sparse quadratic programs is given and gives back, and Clarabel as such a solver."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from .._base.pattern import SparseArray
from .._base.status import Status
from .conic import ConePoint, ConeProgram
from .conic_clarabel import solve_cones


class SparseProgram(NamedTuple):
    """One sample, float64, all finite: minimize ``x'Qx/2 + p'x`` subject to ``Ex = e`` and ``Cx <= c``.

    ``Q`` is symmetric. Bounds on variables are rows of ``C``, fixed variables rows of ``E``.
    """

    Q: SparseArray
    p: np.ndarray
    E: SparseArray
    e: np.ndarray
    C: SparseArray
    c: np.ndarray


class SparsePoint(NamedTuple):
    """What a solver found, and what it makes of it; a certificate of infeasibility is in the multipliers."""

    x: np.ndarray
    y: np.ndarray  # multipliers of Ex = e
    z: np.ndarray  # multipliers of Cx <= c, nonnegative
    status: Status
    iterations: int


class SparseSolver(Protocol):
    """What ``solver=`` may be for sparse programs: it is called for one sample at a time, from several threads."""

    @property
    def eps(self) -> float:
        """What the relative residuals (IPM-10) of the final point must not exceed for the sample to count as solved."""
        ...

    def __call__(self, program: SparseProgram) -> SparsePoint:
        """Solve one program, or say why not."""
        ...


@dataclass(frozen=True)
class Clarabel:
    """The interior-point solver Clarabel, for sparse quadratic and for cone programs; needs the package `clarabel`.

    Its answer is where the search for the exact active set, or Newton's method, starts, so its own tolerance is far
    below `eps`; how near it comes to that does not matter. The samples of a batch run on ``torch.get_num_threads()``
    threads.

    Args:
        eps: what the relative residuals of the final point must not exceed for the sample to count as solved. Where the
            active set is found they are near 1e-13.
        max_steps: limit on the iterations.

    References: Goulart and Chen, "Clarabel: an interior-point solver for conic programs with quadratic objectives"
        (2024).
    """

    eps: float = 1e-6
    max_steps: int = 200

    def __call__(self, program: SparseProgram) -> SparsePoint:
        """Solve one program; releases the interpreter lock meanwhile."""
        clarabel, settings = self._settings(1e-6 * self.eps)
        Q, p, E, e, C, c = program
        cones = [clarabel.ZeroConeT(len(e)), clarabel.NonnegativeConeT(len(c))]
        upper, rows = sp.triu(Q, format="csc"), sp.vstack([E, C], format="csc")
        found = clarabel.DefaultSolver(upper, p, rows, np.concatenate([e, c]), cones, settings).solve()
        x, multipliers = np.array(found.x), np.array(found.z)
        outcome = {
            clarabel.SolverStatus.Solved: Status.SOLVED,
            clarabel.SolverStatus.PrimalInfeasible: Status.PRIMAL_INFEASIBLE,
            clarabel.SolverStatus.DualInfeasible: Status.DUAL_INFEASIBLE,
            clarabel.SolverStatus.MaxIterations: Status.MAX_STEPS,
        }
        status = outcome.get(found.status, Status.NUMERICAL_ERROR)
        return SparsePoint(x, multipliers[: len(e)], multipliers[len(e) :], status, found.iterations)

    def solve_cones(self, program: ConeProgram) -> ConePoint:
        """Solve a batch of cone programs."""
        (clarabel, settings), (_, firmer) = (self._settings(1e-6 * self.eps) for _ in range(2))
        # It gives up on 2% of some families of programs after a few iterations; with ten times its own value on none.
        firmer.static_regularization_constant = 1e-7
        return solve_cones(clarabel, [settings, firmer], program)

    def _settings(self, tolerance: float) -> tuple[Any, Any]:
        """The module, and its settings for so small a tolerance."""
        try:
            clarabel: Any = importlib.import_module("clarabel")  # lazily: an optional dependency without type stubs
        except ImportError as error:
            raise ImportError(
                "ol.Clarabel needs the package clarabel: pip install optlayers[cvxpy], or pass another solver."
            ) from error
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.max_threads = 1  # the samples of a batch are what runs in parallel
        settings.max_iter = self.max_steps
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
        return clarabel, settings
