"""The projection onto a product of cones, block by block, the blocks of one cone and size together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import projection
from ..solvers.conic import Cones


class Group(NamedTuple):
    """All blocks of a cone that have one size: ``index (k, d)`` holds the rows of each."""

    kind: str
    index: np.ndarray
    exponents: tuple[float, ...] = ()


@lru_cache(maxsize=256)
def groups(cones: Cones) -> tuple[Group, ...]:
    """The blocks of a product of cones, equal ones together; nonnegative rows are one block."""
    starts = cones.starts
    found = [
        Group("zero", np.arange(*starts[0:2])[None]),
        Group("nonneg", np.arange(*starts[1:3])[None]),
        *_by_size("second_order", starts[2], cones.second_order),
        *_by_size("psd", starts[3], [order * (order + 1) // 2 for order in cones.psd]),
        Group("exponential", np.arange(*starts[4:6]).reshape(-1, 3)),
        Group("power", np.arange(*starts[5:7]).reshape(-1, 3), cones.power),
    ]
    return tuple(group for group in found if group.index.size)


def _by_size(kind: str, start: int, sizes: Sequence[int]) -> list[Group]:
    starts = start + np.cumsum([0, *sizes[:-1]]) if len(sizes) else np.zeros(0)
    return [
        Group(kind, starts[np.equal(sizes, size)].astype(int)[:, None] + np.arange(size)) for size in sorted(set(sizes))
    ]


def project(cones: Cones, v: Tensor) -> Tensor:
    """The projection of ``v (B, m)`` onto the cones, differentiable."""
    parts = []
    for group in groups(cones):
        part = PROJECTIONS[group.kind](v[..., as_index(group.index, v)], group)
        parts.append(part.flatten(-2))
    if not parts:
        return v
    return torch.cat(parts, -1)[..., as_index(_inverse_order(cones), v)]


@lru_cache(maxsize=256)
def order(cones: Cones) -> np.ndarray:
    """The rows in the order of :func:`groups`."""
    return np.concatenate([np.zeros(0, np.int64), *(group.index.ravel() for group in groups(cones))])


@lru_cache(maxsize=256)
def _inverse_order(cones: Cones) -> np.ndarray:
    return np.argsort(order(cones))


def interior(cones: Cones, like: Tensor) -> Tensor:
    """A point in the interior of all cones but the zero cone, ``(m,)``."""
    point = like.new_zeros(cones.rows)
    for group in groups(cones):
        point[as_index(group.index, like)] = like.new_tensor(_interior(group))
    return point


def _interior(group: Group) -> np.ndarray:
    size = group.index.shape[1]
    if group.kind == "nonneg":
        return np.ones(size)
    if group.kind == "second_order":
        return np.eye(size)[0]
    if group.kind == "psd":
        return matrix_order(size)[1]
    return np.array({"zero": [0.0] * size, "exponential": [-1.0, 1.0, 1.0], "power": [1.0, 1.0, 0.0]}[group.kind])


@lru_cache(maxsize=256)
def matrix_order(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a matrix as ``size`` rows: the row of each entry ``(k, k)``; whether a row is diagonal; the scale of a row."""
    k = (math.isqrt(8 * size + 1) - 1) // 2
    cols, rows = np.tril_indices(k)  # the upper triangle column by column is the lower one row by row, transposed
    entry = np.zeros((k, k), int)
    entry[rows, cols] = entry[cols, rows] = np.arange(size)
    diagonal = (rows == cols).astype(float)
    return entry, diagonal, np.where(diagonal, 1.0, math.sqrt(2.0))


def matrices(rows: Tensor) -> Tensor:
    """``(*, k, k)`` of the scaled upper triangles ``(*, k (k + 1) / 2)``."""
    entry, _, scale = matrix_order(rows.shape[-1])
    return (rows / as_index(scale, rows).to(rows.dtype))[..., as_index(entry, rows)]


def triangles(X: Tensor) -> Tensor:
    """The scaled upper triangles of symmetric matrices."""
    k = X.shape[-1]
    cols, rows = np.tril_indices(k)
    scale = matrix_order(len(rows))[2]
    return X[..., as_index(rows, X), as_index(cols, X)] * as_index(scale, X).to(X.dtype)


def as_index(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)


def _powers(part: Tensor, group: Group) -> Tensor:
    return projection.power(part, part.new_tensor(group.exponents))


PROJECTIONS: dict[str, Callable[[Tensor, Group], Tensor]] = {
    "zero": lambda part, _: torch.zeros_like(part),
    "nonneg": lambda part, _: torch.relu(part),
    "second_order": lambda part, _: projection.second_order(part),
    "psd": lambda part, _: triangles(projection.psd(matrices(part))),
    "exponential": lambda part, _: projection.exponential(part),
    "power": _powers,
}
