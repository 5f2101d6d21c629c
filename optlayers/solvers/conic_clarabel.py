"""Cone programs by Clarabel: one solver a sample, samples side by side on threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from .._base.status import Status
from .conic import Columns, ConePoint, ConeProgram, Cones

NEAR = 1e-6  # relative residuals from which on lack of progress means that rounding allows no more
Outcome = tuple[Any, Any, Any, Status, int]  # of one sample: x, s, z, status, iterations


def solve_cones(clarabel: Any, settings: Sequence[Any], program: ConeProgram) -> ConePoint:
    """Solve each sample with the module `clarabel`.

    Args:
        settings: those to try one after the other while the solver gives up for numerical reasons; they are only read,
            so threads share them.
    """
    P, A = Columns(program.on_P, program.P, symmetric=True), Columns(program.on_A, program.A)
    cones = _cones(clarabel, program.cones)
    S = clarabel.SolverStatus
    outcome = {
        S.Solved: Status.SOLVED,
        S.AlmostSolved: Status.SOLVED,
        S.InsufficientProgress: Status.SOLVED,  # the residual of the point decides
        S.PrimalInfeasible: Status.PRIMAL_INFEASIBLE,
        S.AlmostPrimalInfeasible: Status.PRIMAL_INFEASIBLE,
        S.DualInfeasible: Status.DUAL_INFEASIBLE,
        S.AlmostDualInfeasible: Status.DUAL_INFEASIBLE,
        S.MaxIterations: Status.MAX_STEPS,
    }

    def solve(sample: int) -> Outcome:
        q, b = (array[sample if len(array) > 1 else 0] for array in (program.q, program.b))
        for attempt in settings:
            found = clarabel.DefaultSolver(P.sample(sample), q, A.sample(sample), b, cones, attempt).solve()
            stuck = found.status == S.InsufficientProgress and max(found.r_prim, found.r_dual) > NEAR
            if found.status in outcome and not stuck:
                break
        return found.x, found.s, found.z, outcome.get(found.status, Status.NUMERICAL_ERROR), found.iterations

    return stacked(side_by_side(solve, program.count), program)


def side_by_side(solve: Callable[[int], Outcome], count: int) -> Sequence[Outcome]:
    """`solve` of every sample, on as many threads as torch may use: solvers release the interpreter lock."""
    workers = min(torch.get_num_threads(), count)
    if workers <= 1:
        return [solve(sample) for sample in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(solve, range(count)))


def stacked(outcomes: Sequence[Outcome], program: ConeProgram) -> ConePoint:
    """The outcomes of samples as one point."""
    n, m = program.on_A.shape[1], program.on_A.shape[0]
    parts = [
        np.array([outcome[i] for outcome in outcomes], dtype).reshape(len(outcomes), *shape)
        for i, (dtype, shape) in enumerate(
            [(float, (n,)), (float, (m,)), (float, (m,)), (np.int64, ()), (np.int64, ())]
        )
    ]
    return ConePoint(*parts)


def _cones(clarabel: Any, cones: Cones) -> list[Any]:
    return [
        *([clarabel.ZeroConeT(cones.zero)] if cones.zero else []),
        *([clarabel.NonnegativeConeT(cones.nonneg)] if cones.nonneg else []),
        *(clarabel.SecondOrderConeT(size) for size in cones.second_order),
        *(clarabel.PSDTriangleConeT(order) for order in cones.psd),
        *(clarabel.ExponentialConeT() for _ in range(cones.exponential)),
        *(clarabel.PowerConeT(exponent) for exponent in cones.power),
    ]
