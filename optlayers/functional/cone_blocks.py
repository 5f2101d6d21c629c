"""The projection onto a product of cones, and the eigenvectors and eigenvalues of its derivative, block by block."""

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
        part = _PROJECTIONS[group.kind](v[..., _torch(group.index, v)], group)
        parts.append(part.flatten(-2))
    if not parts:
        return v
    return torch.cat(parts, -1)[..., _torch(_inverse_order(cones), v)]


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
        point[_torch(group.index, like)] = like.new_tensor(_interior(group))
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
    return (rows / _torch(scale, rows).to(rows.dtype))[..., _torch(entry, rows)]


def triangles(X: Tensor) -> Tensor:
    """The scaled upper triangles of symmetric matrices."""
    k = X.shape[-1]
    cols, rows = np.tril_indices(k)
    scale = matrix_order(len(rows))[2]
    return X[..., _torch(rows, X), _torch(cols, X)] * _torch(scale, X).to(X.dtype)


def _torch(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)


def _powers(part: Tensor, group: Group) -> Tensor:
    return projection.power(part, part.new_tensor(group.exponents))


_PROJECTIONS: dict[str, Callable[[Tensor, Group], Tensor]] = {
    "zero": lambda part, _: torch.zeros_like(part),
    "nonneg": lambda part, _: torch.relu(part),
    "second_order": lambda part, _: projection.second_order(part),
    "psd": lambda part, _: triangles(projection.psd(matrices(part))),
    "exponential": lambda part, _: projection.exponential(part),
    "power": _powers,
}


class Spectrum:
    """``DP(v) = U diag(lam) U'`` for the projection at ``v (B, m)``; coordinates ``U'r`` come in the order of groups.

    Attributes:
        lam: ``(B, m)`` eigenvalues in [0, 1].
        blocks: for each group its index ``(k, d)`` and eigenvectors ``(B, k, d, d)``, None for unit vectors.
    """

    def __init__(self, cones: Cones, v: Tensor):
        self.order = _torch(order(cones), v)
        self.blocks: list[tuple[Tensor, Tensor | None]] = []
        lam = [v.new_zeros(v.shape[0], 0)]
        for group in groups(cones):
            index = _torch(group.index, v)
            values, vectors = _EIGEN[group.kind](v[:, index], group)
            lam.append(values.flatten(1))
            self.blocks.append((index, vectors))
        self.lam = torch.cat(lam, 1).clamp(0.0, 1.0)

    def coordinates(self, r: Tensor) -> Tensor:
        """``U'r`` for ``r (B, m, *)``."""
        parts = [r[:, :0]]
        for index, vectors in self.blocks:
            part = r[:, index]
            if vectors is not None:
                part = (vectors.mT @ part) if r.dim() == 3 else (vectors.mT @ part.unsqueeze(-1)).squeeze(-1)
            parts.append(part.flatten(1, 2))
        return torch.cat(parts, 1)

    def vector(self, c: Tensor) -> Tensor:
        """``U c`` for ``c (B, m)``."""
        r, start = torch.empty_like(c), 0
        for index, vectors in self.blocks:
            part = c[:, start : start + index.numel()].reshape(-1, *index.shape)
            start += index.numel()
            r[:, index] = part if vectors is None else (vectors @ part.unsqueeze(-1)).squeeze(-1)
        return r


def _constant(value: float) -> Callable[[Tensor, Group], tuple[Tensor, None]]:
    return lambda part, _: (torch.full_like(part, value), None)


def _orthant(part: Tensor, _: Group) -> tuple[Tensor, None]:
    return (part > 0).to(part.dtype), None


def _second_order(part: Tensor, _: Group) -> tuple[Tensor, Tensor]:
    """For ``v = (t, y)`` and ``u = y / |y|``: 1 along ``(1, u)``, 0 along ``(1, -u)``, ``(1 + t / |y|) / 2`` across."""
    t, y = part[..., :1], part[..., 1:]
    size = y.shape[-1]
    if size == 0:
        return (t > 0).to(part.dtype), part.new_ones(1, 1).expand(*part.shape, 1)
    length = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    first = torch.eye(size, dtype=y.dtype, device=y.device)[0]
    u = torch.where(length > 0, y / torch.where(length > 0, length, 1.0), first)
    # The Householder reflection that takes the first unit vector to -sign u: its other columns are orthogonal to u.
    sign = torch.where(u[..., :1] < 0, -1.0, 1.0)
    h = u + sign * first
    h = h / torch.linalg.vector_norm(h, dim=-1, keepdim=True)
    reflection = torch.eye(size, dtype=y.dtype, device=y.device) - 2 * h.unsqueeze(-1) * h.unsqueeze(-2)
    half = torch.full_like(t, math.sqrt(0.5))
    vectors = part.new_zeros(*part.shape, size + 1)
    vectors[..., 0] = torch.cat([half, half * u], -1)
    vectors[..., 1] = torch.cat([half, -half * u], -1)
    vectors[..., 1:, 2:] = reflection[..., 1:]
    middle = 0.5 * (1 + t / torch.where(length > 0, length, 1.0))
    values = torch.cat([torch.ones_like(t), torch.zeros_like(t), middle.expand(*t.shape[:-1], size - 1)], -1)
    values = torch.where(length <= t, 1.0, torch.where(length <= -t, 0.0, values))
    return values, vectors


def _psd(part: Tensor, _: Group) -> tuple[Tensor, Tensor]:
    """The symmetric products of eigenvectors; for two of them (l+ + m+) / (|l| + |m|)."""
    values, Q = torch.linalg.eigh(matrices(part))
    cols, rows = np.tril_indices(Q.shape[-1])
    a, b = _torch(rows, part), _torch(cols, part)
    products = Q[..., :, a].unsqueeze(-3) * Q[..., :, b].unsqueeze(-2)  # (*, k, k, size): entry, entry, pair
    products = 0.5 * (products + products.transpose(-3, -2))
    pair = matrix_order(part.shape[-1])[2]
    vectors = triangles(products.movedim(-1, -3)).mT * _torch(pair, part)
    positive, size = torch.relu(values), values.abs()
    total = size[..., a] + size[..., b]
    share = (positive[..., a] + positive[..., b]) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, share, 1.0), vectors


def _three(part: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Of cones in three dimensions: the Jacobian row by row, and its eigenvectors."""
    with torch.enable_grad():
        copies = part.expand(3, *part.shape).clone().requires_grad_()
        image = _PROJECTIONS[group.kind](copies, group)
        total = torch.stack([image[i, ..., i].sum() for i in range(3)]).sum()
        (jacobian,) = torch.autograd.grad(total, copies)
    jacobian = jacobian.movedim(0, -2)
    return torch.linalg.eigh(0.5 * (jacobian + jacobian.mT))


_EIGEN = {
    "zero": _constant(0.0),
    "nonneg": _orthant,
    "second_order": _second_order,
    "psd": _psd,
    "exponential": _three,
    "power": _three,
}
