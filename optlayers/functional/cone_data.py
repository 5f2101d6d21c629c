"""The data of a batch of cone programs: checked, in float64, matrices as values on a pattern, one batch dimension."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base.checks import broadcast_batch, check_shape, check_tensors
from .._base.loop import can_read
from .._base.pattern import Matrix, Pattern, is_sparse, read
from .._native.cone_kkt import ConeKkt
from ..solvers.conic import Cones
from .cone_assembly import Assembly
from .cone_plan import cone_kkt

ABSENT = 1e18  # a row with s >= 0 and so large a right-hand side is no constraint: data files write 1e20 for infinity


class Full(Pattern):
    """The pattern of a dense matrix, whose products are those of dense matrices."""

    def __init__(self, shape: tuple[int, int]):
        rows, cols = np.indices(shape).reshape(2, -1)
        super().__init__(rows, cols, shape)

    def mv(self, values: Tensor, x: Tensor) -> Tensor:
        return (self.dense(values) @ x.unsqueeze(-1)).squeeze(-1)

    def transposed(self) -> Pattern:
        return _Transposed(self)

    def dense(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, self.shape)


class _Transposed(Full):
    """The transpose of a dense matrix whose values are in the order of the matrix itself."""

    def __init__(self, base: Full):
        Pattern.__init__(self, base.cols, base.rows, (base.shape[1], base.shape[0]))
        self.base = base

    def transposed(self) -> Pattern:
        return self.base

    def dense(self, values: Tensor) -> Tensor:
        return self.base.dense(values).mT


@dataclass(frozen=True, eq=False)
class Structure:
    """What the samples of a batch have in common; what follows from it is found once, see :func:`structure_of`."""

    cones: Cones
    on_P: Pattern
    on_A: Pattern

    @cached_property
    def assembly(self) -> Assembly:
        """How the sparse matrices of linear systems are put together."""
        return Assembly(self.cones, self.on_P, self.on_A)

    @cached_property
    def kkt(self) -> ConeKkt | None:
        """The compiled refinement and derivative, where there is one."""
        return cone_kkt(self.cones, self.on_P, self.on_A)

    @property
    def dense(self) -> bool:
        """Whether linear systems are dense: matrices were given so, or there is little to gain."""
        size = sum(self.on_A.shape)
        entries = len(self.on_P.rows) + 2 * len(self.on_A.rows)
        given = isinstance(self.on_P, Full) or isinstance(self.on_A, Full)
        return given or size <= 100 or entries > 0.2 * size**2


@lru_cache(maxsize=64)
def structure_of(cones: Cones, on_P: Pattern, on_A: Pattern) -> Structure:
    """The structure of these very patterns, the same for every call."""
    return Structure(cones, on_P, on_A)


@lru_cache(maxsize=64)
def _full(shape: tuple[int, int]) -> Full:
    return Full(shape)


@lru_cache(maxsize=64)
def _pattern(rows: bytes, cols: bytes, shape: tuple[int, int]) -> Pattern:
    return Pattern(np.frombuffer(bytearray(rows), np.int64), np.frombuffer(bytearray(cols), np.int64), shape)


class ConeData(NamedTuple):
    """Checked arguments: tensors are ``P (*, nnz), q (*, n), A (*, nnz), b (*, m)``, `*` being the batch size or 1."""

    structure: Structure
    batch: torch.Size
    tensors: list[Tensor]
    dtype: torch.dtype


def cone_data(P: Matrix | None, q: Tensor, A: Matrix, b: Tensor, cones: Cones) -> ConeData:
    """Check the arguments of :func:`solve_cone` and bring them into one form."""
    if not isinstance(cones, Cones):
        raise TypeError(f"solve_cone: cones is a {type(cones).__name__}; expected ol.Cones(...).")
    check_tensors("solve_cone", {"q": q, "b": b})
    check_shape("solve_cone", "q", q, ("n",))
    n, m = q.shape[-1], cones.rows
    check_shape("solve_cone", "b", b, (m,), f"since cones has {m} rows")
    on_A, values_A = _read("A", A, q, (m, n), f"since cones has {m} rows and q has {n} entries")
    on_P, values_P = _pattern(b"", b"", (n, n)), q.new_zeros(0)
    if P is not None:
        on_P, values_P = _read("P", P, q, (n, n), f"since q has {n} entries")
    named: dict[str, Tensor | None] = {"P": values_P, "q": q, "A": values_A, "b": b}
    dtype, device = check_tensors("solve_cone", named)
    tensors = [values_P, q, values_A, b]
    if device.type != "cpu" and not all(isinstance(on, Full) or not len(on.rows) for on in (on_P, on_A)):
        raise ValueError(f"solve_cone: sparse matrices must be on the CPU; got tensors on {device}. Move them first.")
    batch = broadcast_batch("solve_cone", {name: (values, 1) for name, values in zip(named, tensors, strict=True)})
    flat = [_flatten(tensor, batch) for tensor in tensors]
    return ConeData(structure_of(cones, on_P, on_A), batch, [tensor.double() for tensor in flat], dtype)


def _read(name: str, matrix: Any, like: Tensor, shape: tuple[int, int], because: str) -> tuple[Pattern, Tensor]:
    if not isinstance(matrix, Tensor) and not is_sparse(matrix):
        raise TypeError(
            f"solve_cone: {name} is a {type(matrix).__name__}; expected a torch tensor, or a scipy sparse matrix."
        )
    check_shape("solve_cone", name, matrix, shape, because)
    if is_sparse(matrix):
        pattern, values = read("solve_cone", name, matrix, like)
        return _pattern(pattern.rows.tobytes(), pattern.cols.tobytes(), shape), values
    return _full(shape), matrix.flatten(-2)


def _flatten(tensor: Tensor, batch: torch.Size) -> Tensor:
    leading, size = tensor.shape[:-1], tensor.shape[-1:]
    if leading.numel() == 1:
        return tensor.reshape(1, *size)
    return tensor.expand(*batch, *size).reshape(batch.numel(), *size)


def absent_rows(structure: Structure, b: Tensor) -> Tensor | None:
    """``(*, m)`` bool: rows that are no constraint; None if there surely are none."""
    cones = structure.cones
    inside = slice(cones.zero, cones.zero + cones.nonneg)
    absent = b.detach()[..., inside] >= ABSENT
    if can_read(absent) and not absent.any():
        return None
    whole = torch.zeros_like(b, dtype=torch.bool)
    whole[..., inside] = absent
    return whole


def without_rows(structure: Structure, A: Tensor, b: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Such rows as ``0'x + s = 1``."""
    rows = torch.from_numpy(structure.on_A.rows).to(A.device)
    return torch.where(absent[..., rows], 0.0, A), torch.where(absent, 1.0, b)
