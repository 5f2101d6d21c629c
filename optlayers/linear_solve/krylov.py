"""What the Krylov methods share: options, the masked run, division that survives a breakdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._base.loop import iterate
from .._base.tree import Tree
from .correction import CorrectingSolver, Correction, System
from .operator import LinearMap, Operator, transpose


@dataclass(frozen=True)
class KrylovSolver(CorrectingSolver):
    """A method that sees ``A`` only through products; samples stop one by one.

    Differentiating a direct call differentiates the iteration, which converges later than its values do and can be
    wrong where they come early (``A = c I``). Derivatives of the solution are for the implicit rule, or for LU.

    Args:
        maxiter: most iterations; 10 N without. Under vmap and compile, where no value can be read, all are taken.
        preconditioner: linear map from trees to trees, near the inverse of ``A``. Transposed where that is needed.
    """

    maxiter: int | None = None
    preconditioner: LinearMap | None = None

    @property
    def T(self) -> KrylovSolver:
        fn = self.preconditioner
        return self if fn is None else replace(self, preconditioner=lambda v: transpose(fn, v)(v))

    def system(self, operator: Operator, b: Tree, init: Tree | None) -> System:
        system = super().system(operator, b, init)
        if self.preconditioner is None:
            return system
        return replace(
            system, precondition=self._flat("preconditioner", self.preconditioner, system.unravel, system.size)
        )

    def budget(self, system: System, spent: int) -> int:
        """Iterations that are left."""
        return max((10 * system.size if self.maxiter is None else self.maxiter) - spent, 0)

    def run(self, step: Callable[[Any], Any], state: Any, target: Tensor, budget: int) -> Correction:
        """Iterate until the residual ``state.r`` is below the target or ``state.stuck`` says that no step can help."""

        def reached(at: Any) -> Tensor:
            return length(at.r) <= target

        # What is not finite anywhere is so in the residual.
        end = iterate(step, state, lambda at: reached(at) | at.stuck, budget, watch=lambda at: at.r)
        return Correction(end.state.x, end.steps, reached(end.state))


@torch.no_grad()
def length(v: Tensor) -> Tensor:
    """(*batch): length without the guard against overflow, as a run starts with a residual of 1; no derivative."""
    return torch.linalg.vector_norm(v, dim=-1)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """(*batch, 1): inner product, kept as a column that broadcasts over vectors."""
    return torch.linalg.vecdot(a, b).unsqueeze(-1)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 with a zero gradient where ``b`` is 0: a breakdown then stands still instead of going NaN."""
    zero = b == 0
    return torch.where(zero, 0.0, a / torch.where(zero, 1.0, b))


def none_of(target: Tensor) -> Tensor:
    """A mask that holds nowhere, shaped as the batch."""
    return torch.zeros_like(target, dtype=torch.bool)
