"""The first-order solver SCS, for cone programs too large to factor at every step."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._base.status import Status
from .conic import Columns, ConePoint, ConeProgram, Cones
from .conic_clarabel import Outcome, side_by_side, stacked

_SOLVED, _INACCURATE, _UNBOUNDED, _INFEASIBLE = 1, 2, -1, -2  # of SCS


@dataclass(frozen=True)
class SCS:
    """The operator-splitting solver SCS, for cone programs; needs the package `scs`.

    Cheap steps, many of them: for large programs where moderate accuracy is enough to start Newton's method from.

    Args:
        eps: what the relative residuals of the final point must not exceed for a sample to count as solved; SCS itself
            goes on to a thousandth of that.
        max_steps: limit on the iterations.

    References: O'Donoghue, "Operator splitting for a homogeneous embedding of the linear complementarity problem"
        (2021).
    """

    eps: float = 1e-6
    max_steps: int = 100_000

    def solve_cones(self, program: ConeProgram) -> ConePoint:
        """Solve a batch of cone programs, the samples on ``torch.get_num_threads()`` threads."""
        try:
            scs: Any = importlib.import_module("scs")  # lazily: an optional dependency without type stubs
        except ImportError as error:
            raise ImportError("ol.SCS needs the package scs: pip install scs, or pass another solver.") from error
        P, A = Columns(program.on_P, program.P, symmetric=True), Columns(program.on_A, program.A)
        cone = cone_dict(program.cones)
        order = row_order(program.cones)
        tolerance = 1e-3 * self.eps
        settings = {"eps_abs": tolerance, "eps_rel": tolerance, "max_iters": self.max_steps, "verbose": False}

        def solve(sample: int) -> Outcome:
            q, b = (array[sample if len(array) > 1 else 0] for array in (program.q, program.b))
            data = {"P": P.sample(sample), "A": A.sample(sample)[order], "b": b[order], "c": q}
            found = scs.SCS(data, cone, **settings).solve()
            s, z = np.empty_like(b), np.empty_like(b)
            s[order], z[order] = found["s"], found["y"]
            return found["x"], s, z, _status(found["info"]), found["info"]["iter"]

        return stacked(side_by_side(solve, program.count), program)


def _status(info: dict[str, Any]) -> Status:
    known = {
        _SOLVED: Status.SOLVED,
        _INACCURATE: Status.MAX_STEPS,
        _UNBOUNDED: Status.DUAL_INFEASIBLE,
        _INFEASIBLE: Status.PRIMAL_INFEASIBLE,
    }
    return known.get(info["status_val"], Status.NUMERICAL_ERROR)


def cone_dict(cones: Cones) -> dict[str, Any]:
    """The cones as SCS is told them."""
    return {
        "z": cones.zero,
        "l": cones.nonneg,
        "q": list(cones.second_order),
        "s": list(cones.psd),
        "ep": cones.exponential,
        "p": list(cones.power),
    }


def row_order(cones: Cones) -> np.ndarray:
    """Which of our rows is at a place of SCS's, whose matrices are lower triangles column by column."""
    order, start = np.arange(cones.rows), cones.starts[3]
    for k in cones.psd:
        rows, cols = np.triu_indices(k)  # row by row, which is the lower triangle column by column
        order[start : start + len(rows)] = start + cols * (cols + 1) // 2 + rows
        start += len(rows)
    return order
