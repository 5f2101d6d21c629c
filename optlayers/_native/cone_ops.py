"""The native op of cone programs: the plan of a pattern, and the solver that works by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import _C


class ConeSolveResult(NamedTuple):
    """What :func:`cone_solve` returns; n variables, m rows, batch B."""

    x: Tensor  # (B, n)
    s: Tensor  # (B, m)
    z: Tensor  # (B, m)
    status: Tensor  # (B,) int64, optlayers.Status
    iterations: Tensor  # (B,) int64


def cone_plan(
    n: int,
    P: tuple[np.ndarray, np.ndarray],
    A: tuple[np.ndarray, np.ndarray],
    zero: int = 0,
    nonneg: int = 0,
    second_order: Sequence[int] = (),
    psd: Sequence[int] = (),
    exponential: int = 0,
    power: int = 0,
) -> Tensor:
    """Analyse a pattern of cone programs, once for all that share it.

    Args:
        n: number of variables.
        P, A: rows and columns of the entries; those of P in either triangle or in both. An entry given twice is a sum.
        zero, nonneg, second_order, psd, exponential: as in ``Cones``.
        power: number of power cones.

    Returns:
        ``(words,)`` int32: the KKT matrix, its order of elimination, its factor. Sizes are not checked.
    """
    arrays = [np.ascontiguousarray(index, np.int32) for pattern in (P, A) for index in pattern]
    addresses = [array.ctypes.data for array in arrays]
    words = _C.cone_analyse(
        n,
        (len(arrays[0]), *addresses[:2]),
        (len(arrays[2]), *addresses[2:]),
        zero,
        nonneg,
        list(second_order),
        list(psd),
        exponential,
        power,
    )
    return torch.frombuffer(bytearray(words), dtype=torch.int32)


def cone_solve(
    plan: Tensor, exponents: Tensor, P: Tensor, q: Tensor, A: Tensor, b: Tensor, eps: float, max_steps: int
) -> ConeSolveResult:
    r"""Solve a batch of cone programs on one pattern.

    .. math:: \min_x \tfrac12 x^\top P x + q^\top x \quad\text{s.t.}\quad Ax + s = b,\; s \in \mathcal K

    An interior point method on the homogeneous embedding, in float64 (docs/theory/cone_interior_point.md).

    Args:
        plan: of :func:`cone_plan`.
        exponents: ``(power,)`` of the power cones.
        P, A: ``(B, entries)`` or, shared, ``(1, entries)``: values in the order of the plan's patterns.
        q, b: ``(B, n)`` and ``(B, m)``, or shared.
        eps: largest relative residual of a solution (CIP-23).
        max_steps: interior point steps.

    Returns:
        :class:`ConeSolveResult`. Where the status is PRIMAL_INFEASIBLE z is a certificate, ``A'z = 0``, ``b'z = -1``;
        where it is DUAL_INFEASIBLE x is one, ``Px = 0``, ``q'x = -1``, ``-Ax`` in the cone. Where it is MAX_STEPS or
        NUMERICAL_ERROR the point is the best one seen. INVALID_INPUT comes with NaN.
    """
    return ConeSolveResult(*torch.ops.optlayers.cone_solve.default(plan, exponents, P, q, A, b, eps, max_steps))


def _empty(plan, exponents, P, q, A, b, eps, max_steps) -> tuple[Tensor, ...]:
    batch = max(P.shape[0], q.shape[0], A.shape[0], b.shape[0])
    batch = 0 if 0 in (P.shape[0], q.shape[0], A.shape[0], b.shape[0]) else batch
    new = q.new_empty
    status = new(batch, dtype=torch.int64)
    return new(batch, q.shape[1]), new(batch, b.shape[1]), new(batch, b.shape[1]), status, status.new_empty(batch)


def _cpu(plan, exponents, P, q, A, b, eps: float, max_steps: int) -> tuple[Tensor, ...]:
    outputs = _empty(plan, exponents, P, q, A, b, eps, max_steps)
    batch = len(outputs[0])
    if batch == 0:
        return outputs
    inputs = [t.contiguous() for t in (P, q, A, b)]  # held, like the workspace, as long as the call takes
    arrays = []
    for t in inputs:
        arrays += (t.data_ptr(), t.stride(0) if t.shape[0] > 1 else 0)
    arrays += [t.data_ptr() for t in outputs]
    plan, exponents, threads = plan.contiguous(), exponents.contiguous(), torch.get_num_threads()
    size = _C.cone_workspace(plan.data_ptr(), batch)
    workspace = torch.empty(min(threads, batch) * size, dtype=torch.float64)
    at = (plan.data_ptr(), batch, exponents.data_ptr())
    _C.cone_solve_float64(*at, tuple(arrays), eps, max_steps, workspace.data_ptr(), threads)
    return outputs


_library = torch.library.Library("optlayers", "FRAGMENT")
_library.define(
    "cone_solve(Tensor plan, Tensor exponents, Tensor P, Tensor q, Tensor A, Tensor b, float eps, int max_steps) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)"
)
if _C is not None:
    _library.impl("cone_solve", _cpu, "CPU")
torch.library.register_fake("optlayers::cone_solve", _empty, lib=_library)
