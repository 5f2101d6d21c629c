"""The compiled refinement, linear systems and gradients of cone programs on one pattern; float64, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import _C


class Refined(NamedTuple):
    """What :meth:`ConeKkt.refine` returns; n variables, m rows, batch B."""

    x: Tensor  # (B, n)
    v: Tensor  # (B, m) = w s - z / w
    w: Tensor  # (B, m) units of the rows
    s: Tensor  # (B, m)
    z: Tensor  # (B, m)
    residuals: Tensor  # (B, 2): primal, dual


class ConeKkt:
    """A plan of the system (CONE-6), analysed once, and the kernels that work by it.

    Values are float64 tensors on the CPU with one batch dimension, of size one where they are shared.

    Args:
        words: the plan, as csrc/cpu/cone_kkt_plan.h reads it, but for the factorization of the matrix.
        exponents: for each block, that of a power cone.
        rows, cols: the entries of the matrix.
        on_P: rows and columns of the entries of P.
        size: n, m.
    """

    def __init__(
        self,
        words: np.ndarray,
        exponents: np.ndarray,
        rows: np.ndarray,
        cols: np.ndarray,
        on_P: tuple[np.ndarray, np.ndarray],
        size: tuple[int, int],
    ):
        self.n, self.m = size
        self.words = torch.cat([torch.from_numpy(words.astype(np.int32)), _ldl_plan(sum(size), rows, cols)])
        self.exponents = torch.from_numpy(exponents)
        self.on_P = on_P
        self._rooms: dict[bool, int] = {}

    @cached_property
    def plan_of_P(self) -> Tensor:
        """That of the factorization of P alone."""
        return _ldl_plan(self.n, *self.on_P)

    @cached_property
    def _room_of_P(self) -> int:
        return _C.cone_kkt_valid_workspace(self.plan_of_P.data_ptr())

    @cached_property
    def _zeros(self) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(1, max(self.n, self.m), dtype=torch.float64)
        return zeros[:, : self.n], zeros[:, : self.m]

    def valid(self, data: Sequence[Tensor]) -> Tensor:
        """``(B)`` bool, B from 1: values ``P, q, A, b`` are numbers and P is positive semidefinite up to rounding."""
        count = max([tensor.shape[0] for tensor in data])
        out = torch.empty(count, 1, dtype=torch.bool)
        data = [tensor.contiguous() for tensor in data]
        of_P = self.plan_of_P.data_ptr()
        room = torch.empty(self._room_of_P, dtype=torch.float64)
        _C.cone_kkt_valid(self._arguments(count, data, [out]), of_P, room.data_ptr())
        return out.squeeze(-1)

    def refine(self, count: int, data: Sequence[Tensor], x: Tensor, s: Tensor, z: Tensor) -> Refined:
        """Newton steps (CONE-9) from a solver's points; all values have to be numbers."""
        new, m = x.new_empty, self.m
        out = Refined(new(count, self.n), new(count, m), new(count, m), new(count, m), new(count, m), new(count, 2))
        inputs = [tensor.contiguous() for tensor in (*data, x, s, z)]
        self._run(_C.cone_kkt_refine, count, inputs, out)
        return out

    def solve(
        self,
        P: Tensor,
        A: Tensor,
        v: Tensor,
        w: Tensor,
        rhs: Sequence[Tensor | None],
        transpose: bool,
    ) -> tuple[list[Tensor], Tensor]:
        """Solve the system in ``(x, v, s, z)`` (CONE-11) or its transpose; the last is its relative residual ``(B)``.

        Args:
            P, A: values.
            v, w: ``(B, m)`` where the projection is differentiated, and the units.
            rhs: ``(B, n), (B, m), (B, m), (B, m)``; None is zero.
            transpose: which of the two.
        """
        count = v.shape[0]
        new, m = v.new_empty, self.m
        out = [new(count, self.n), new(count, m), new(count, m), new(count, m), new(count, 1)]
        right = [self._zeros[i > 0] if part is None else part for i, part in enumerate(rhs)]
        inputs = [tensor.contiguous() for tensor in (P, A, v, w, *right)]
        self._run(_C.cone_kkt_solve, count, inputs, out, transpose)
        return out[:4], out[4].squeeze(-1)

    def gradients(
        self, x: Tensor, z: Tensor, u: Tensor, t: Tensor, P: Tensor | None, A: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of P and A (CONE-12), of the shapes of those given: summed over the batch where they are shared."""
        grads = [
            None if like is None else torch.zeros_like(like, memory_format=torch.contiguous_format) for like in (P, A)
        ]
        shared = [0 if grad is None or grad.shape[0] == 1 else grad.shape[1] for grad in grads]
        at = [part.contiguous() for part in (x, z, u, t)]  # held as long as the call takes
        arguments = self._arguments(x.shape[0], at, [])
        for grad, stride in zip(grads, shared, strict=True):
            arguments += (0 if grad is None else grad.data_ptr(), stride)
        _C.cone_kkt_gradients(arguments)
        return grads[0], grads[1]

    def _run(self, kernel, count: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *settings) -> None:
        """Call a kernel with as much workspace as its threads need."""
        arguments, alone = self._arguments(count, inputs, outputs), count == 1
        if alone not in self._rooms:
            self._rooms[alone] = _C.cone_kkt_workspace(arguments[:3])
        threads = torch.get_num_threads()
        room = torch.empty(min(threads, count) * self._rooms[alone] + 8, dtype=torch.float64)
        kernel(arguments, *settings, (room.data_ptr() + 63) // 64 * 64, threads)

    def _arguments(self, count: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[int]:
        found = [self.words.data_ptr(), self.exponents.data_ptr(), count]
        for tensor in (*inputs, *outputs):
            samples, size = tensor.shape
            found += (tensor.data_ptr(), 0 if samples == 1 else size)
        return found


def _ldl_plan(n: int, rows: np.ndarray, cols: np.ndarray) -> Tensor:
    rows, cols = (np.ascontiguousarray(index, np.int32) for index in (rows, cols))
    return torch.frombuffer(
        bytearray(_C.ldl_analyse(n, len(rows), rows.ctypes.data, cols.ctypes.data)), dtype=torch.int32
    )
