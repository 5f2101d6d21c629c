"""What became of each sample of a batch: `Status`, the `Solution` every solver returns, and `SolveError`."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Status(IntEnum):
    """The outcome of one sample; solutions hold it as an int64 tensor with one entry per sample."""

    SOLVED = 0
    MAX_STEPS = 1
    PRIMAL_INFEASIBLE = 2
    DUAL_INFEASIBLE = 3
    INVALID_INPUT = 4
    NUMERICAL_ERROR = 5

    @property
    def explanation(self) -> str:
        """What the status means and what to try."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Status.SOLVED: "The optimality conditions hold to tolerance.",
    Status.MAX_STEPS: (
        "The step limit was reached before the residuals met the tolerance. Raise max_steps, loosen the tolerance, "
        "or look at solution.residuals."
    ),
    Status.PRIMAL_INFEASIBLE: (
        "No x satisfies the constraints; the multipliers hold a certificate. Relax the constraints that carry "
        "large multipliers."
    ),
    Status.DUAL_INFEASIBLE: (
        "The objective is unbounded below on the feasible set. Add bounds, or a small multiple of the identity to Q."
    ),
    Status.INVALID_INPUT: (
        "The data of the sample are no convex problem: NaN, an infinity where none can be, lb > ub, a Q or a Hessian "
        "with a negative eigenvalue, functions that are not finite at the start, or a bracket without a sign change."
    ),
    Status.NUMERICAL_ERROR: ("The iteration broke down before it could decide. Rescale the data, or solve in float64."),
}


class Solution(NamedTuple):
    """A batch of solutions: a named tuple, hence a pytree.

    Attributes:
        x: the solution, with the structure of the unknown.
        status: ``(*batch)`` int64, one :class:`Status` per sample.
        iterations: ``(*batch)`` int64, steps taken.
        residuals: ``(*batch, r)`` the residual norms the solver stops on.
    """

    x: Any
    status: Tensor
    iterations: Tensor
    residuals: Tensor


class SolveError(RuntimeError):
    """Some samples could not be solved; ``status`` holds the tensor of :class:`Status` codes."""

    def __init__(self, message: str, status: Tensor):
        super().__init__(message)
        self.status = status

    def __reduce__(self):
        return type(self), (self.args[0], self.status)


def solve_error(function: str, status: Tensor, residuals: Tensor) -> SolveError:
    """Word the error for the samples of `status` that are not SOLVED: which, why, what to try."""
    lines = []
    for code in Status:
        failed = (status == code).nonzero()
        if code is Status.SOLVED or len(failed) == 0:
            continue
        samples = ", ".join(str(tuple(index)) if len(index) > 1 else str(*index) for index in failed[:5].tolist())
        where = f"sample {samples}{', ...' if len(failed) > 5 else ''}" if status.dim() else "the problem"
        worst = residuals[status == code].nan_to_num(torch.inf).amax().item() if residuals.numel() else float("nan")
        lines.append(f"{code.name} ({where}; largest residual {worst:.1e}): {code.explanation}")
    total = f"{int((status != Status.SOLVED).sum())} of {status.numel()} samples" if status.dim() else "the problem"
    return SolveError(
        f"{function}: {total} not solved. {' '.join(lines)} Pass throw=False to go on with NaN in place of the "
        f"failed samples and read solution.status.",
        status,
    )
