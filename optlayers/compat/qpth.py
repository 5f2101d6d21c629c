"""The names of qpth: ``from optlayers.compat.qpth import QPFunction``."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor

from ..functional import solve_qp
from ..solvers import InteriorPoint


class QPSolvers(Enum):
    """qpth's choice of solver; here both mean the interior-point method."""

    PDIPM_BATCHED = 1
    CVXPY = 2


def QPFunction(
    eps: float = 1e-12,
    verbose: int = 0,
    notImprovedLim: int = 3,
    maxIter: int = 20,
    solver: QPSolvers = QPSolvers.PDIPM_BATCHED,
    check_Q_spd: bool = True,
) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    r"""qpth's layer: ``QPFunction(...)(Q, p, G, h, A, b) -> x``.

    .. math:: \min_x\ \tfrac12 x^\top Q x + p^\top x \quad\text{s.t.}\quad Gx \le h,\; Ax = b

    Where it differs from qpth: the gradient of an argument shared by the batch is the **sum** over the batch, the
    true gradient, where qpth returns the mean; ``Q`` may be singular, rows dependent, ``h`` infinite; a program that
    cannot be solved raises :class:`~optlayers.SolveError` instead of printing a warning and returning what it has.

    Args:
        eps: tolerance; raised to the engine's own (relative, 1e-9 in float64) if smaller.
        maxIter: limit on the iterations; raised to the engine's own if smaller.
        verbose, notImprovedLim, solver, check_Q_spd: accepted, and without effect: nothing is printed, the engine
            decides itself when to give up, and every ``Q`` is checked.

    Returns:
        A function of ``Q (n, n)``, ``p (n)``, ``G (m, n)``, ``h (m)``, ``A (k, n)``, ``b (k)``, each with or without a
        leading batch dimension, an empty tensor standing for no constraints; it returns ``(batch, n)``.

    References: Amos and Kolter, "OptNet" (2017).
    """
    del verbose, notImprovedLim, solver, check_Q_spd

    def run(Q: Tensor, p: Tensor, G: Tensor, h: Tensor, A: Tensor, b: Tensor) -> Tensor:
        given = [None if t is None or t.numel() == 0 else t for t in (G, h, A, b)]
        own = InteriorPoint()
        engine = InteriorPoint(max(eps, own.tolerance(p.dtype)), max(maxIter, own.max_steps))
        x = solve_qp(Q, p, *given, solver=engine).x
        return x if x.dim() == 2 else x.unsqueeze(0)

    return run


def SpQPFunction(
    Qi: Tensor,
    Qsz: torch.Size,
    Gi: Tensor,
    Gsz: torch.Size,
    Ai: Tensor,
    Asz: torch.Size,
    eps: float = 1e-12,
    verbose: int = 0,
    notImprovedLim: int = 3,
    maxIter: int = 20,
) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """qpth's layer for matrices in coordinates: ``SpQPFunction(...)(Qv, p, Gv, h, Av, b) -> x``.

    Args:
        Qi, Gi, Ai: ``(2, nonzeros)`` int64 coordinates, shared by the batch.
        Qsz, Gsz, Asz: the sizes of the matrices.
        eps, verbose, notImprovedLim, maxIter: as in :func:`QPFunction`.

    Returns:
        A function of the values ``Qv``, ``Gv``, ``Av`` ``(batch, nonzeros)`` or ``(nonzeros)``, and of ``p``, ``h``,
        ``b``, as in :func:`QPFunction`. The matrices are made dense: for large ones pass sparse tensors to
        :func:`~optlayers.solve_qp`.
    """
    layer = QPFunction(eps, verbose, notImprovedLim, maxIter)

    def run(Qv: Tensor, p: Tensor, Gv: Tensor, h: Tensor, Av: Tensor, b: Tensor) -> Tensor:
        return layer(_dense(Qi, Qv, Qsz), p, _dense(Gi, Gv, Gsz), h, _dense(Ai, Av, Asz), b)

    return run


def _dense(indices: Tensor, values: Tensor, size: torch.Size) -> Tensor:
    """``(*batch, *size)`` with `values` at `indices`; duplicates add up."""
    rows, columns = indices
    flat = values.new_zeros(*values.shape[:-1], size[0] * size[1])
    return flat.index_add(-1, rows * size[1] + columns, values).unflatten(-1, tuple(size))
