"""The primal-dual interior-point method for dense batched quadratic programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._base.loop import can_read
from .._native import ops, reference
from .size_limit import check_size
from .warm_start import Guess, solve_warm


@dataclass(frozen=True)
class InteriorPoint:
    """Mehrotra's predictor-corrector method with proximal regularization, equilibration and an active-set polish.

    Args:
        eps: relative tolerance on the unscaled KKT residuals. None: 1e-9 in float64, 1e-5 in float32. The
            polish usually reaches rounding.
        max_steps: limit on the factorizations per sample.

    Programs of up to 14,000 variables are solved, in a workspace of three times the size of ``Q`` per thread; where
    that is more memory than there is, or a program is larger still, :func:`~optlayers.solve_qp` says so at once.

    References: Mehrotra (1992); Schwan et al., "PIQP" (2023). See the page on the QP method, (IPM-1) onwards.
    """

    eps: float | None = None
    max_steps: int = 100

    def tolerance(self, dtype: torch.dtype) -> float:
        """`eps`, or the default of the dtype."""
        return self.eps if self.eps is not None else (1e-9 if dtype == torch.float64 else 1e-5)

    def __call__(self, data: Sequence[Tensor], guess: Guess | None = None) -> Sequence[Tensor]:
        """Solve for ``(Q, p, G, h, A, b, lb, ub)``, each with one batch dimension; see :func:`ops.qp_solve`.

        A guess is looked at where values can be read, and then by :func:`solve_warm`.
        """
        Q, p, _, h, _, b = data[:6]
        check_size(p.shape[0], p.shape[1], h.shape[1] + b.shape[1], p.device)
        eps = self.tolerance(Q.dtype)
        if guess is not None and can_read(guess.x) and can_read(data[0]):
            return solve_warm(self, data, guess, eps)
        return ops.qp_solve(*data, eps=eps, max_steps=self.max_steps)

    def unrolled(self, data: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same in plain torch operations, on the tape and without the polish, which would leave it."""
        return reference.qp_solve(*data, eps=self.tolerance(data[0].dtype), max_steps=self.max_steps, polish=False)
