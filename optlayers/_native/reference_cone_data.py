"""Cone programs as the cone program engine sees them: dense, equilibrated, with the cones of one kind side by side.

Equations (CIP-n) stand in docs/theory/cone_interior_point.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .reference_cone_curved import Curved, Exponential, Power
from .reference_cone_symmetric import Cone, SecondOrder, Semidefinite, Zero

PASSES = 10
LEAST, LARGEST = 1e-4, 1e4  # bounds on factors of scale


class Program(NamedTuple):
    """A batch of programs in equilibrated units, and what takes them back: ``x = column x^, s = s^ / row`` (CIP-2)."""

    P: Tensor  # (B, n, n)
    q: Tensor  # (B, n)
    A: Tensor  # (B, m, n)
    b: Tensor  # (B, m)
    column: Tensor  # (B, n)
    row: Tensor  # (B, m)
    cost: Tensor  # (B, 1)

    def sample(self, index: Tensor) -> Program:
        return Program(*(part[index] for part in self))


def equilibrate(cones: Sequence[Cone], P: Tensor, q: Tensor, A: Tensor, b: Tensor) -> Program:
    """Ruiz scaling (CIP-2); `P` is symmetric."""
    column, row, cost = torch.ones_like(q), torch.ones_like(b), q.new_ones(len(q), 1)
    whole = [cone.index for cone in cones if cone.index.shape[1] > 1]
    for _ in range(PASSES):
        scaled_P = cost[..., None] * column[..., :, None] * P * column[..., None, :]
        scaled_A = (row[..., :, None] * A * column[..., None, :]).abs()
        column = _divided(column, torch.maximum(_largest(scaled_P.abs(), -2), _largest(scaled_A, -2)))
        row = _divided(row, _largest(scaled_A, -1))
        for index in whole:
            row[:, index] = row[:, index].mean(-1, keepdim=True).expand(-1, *index.shape)
        P_columns = _largest((column[..., :, None] * P * column[..., None, :]).abs(), -2)
        mean = P_columns.mean(-1, keepdim=True) if q.shape[-1] else torch.zeros_like(cost)
        size = torch.maximum(mean, _largest((column * q).abs(), -1)[..., None])
        cost = 1 / torch.where(size > 0, size, 1.0).clamp(LEAST, LARGEST)
    column, row, cost = (torch.exp2(factor.log2().round()) for factor in (column, row, cost))
    return Program(
        cost[..., None] * column[..., :, None] * P * column[..., None, :],
        cost * column * q,
        row[..., :, None] * A * column[..., None, :],
        row * b,
        column,
        row,
        cost,
    )


def layout(
    zero: int,
    nonneg: int,
    second_order: Sequence[int],
    psd: Sequence[int],
    exponential: int,
    power: Sequence[float],
    like: Tensor,
) -> list[Cone]:
    """The cones of a product, in the order of its rows; those of one kind and size together."""
    ends = [0]
    rows: dict[tuple[type, int], list[Tensor]] = {}

    def take(kind: type, sizes: Sequence[int]) -> None:
        for size in sizes:
            rows.setdefault((kind, size), []).append(torch.arange(ends[0], ends[0] + size, device=like.device))
            ends[0] += size

    take(Zero, [1] * zero)
    take(SecondOrder, [1] * nonneg)
    take(SecondOrder, second_order)
    take(Semidefinite, [order * (order + 1) // 2 for order in psd])
    take(Exponential, [3] * exponential)
    take(Power, [3] * len(power))
    cones: list[Cone] = []
    for (kind, _), index in rows.items():
        together = torch.stack(index)
        cones.append(Power(together, like.new_tensor(power)) if kind is Power else kind(together))
    return cones


def count_curved(cones: Sequence[Cone]) -> int:
    """How many exponential and power cones there are."""
    return sum(len(cone.index) for cone in cones if isinstance(cone, Curved))


def _divided(factor: Tensor, size: Tensor) -> Tensor:
    return (factor / torch.where(size > 0, size, 1.0).sqrt()).clamp(LEAST, LARGEST)


def _largest(value: Tensor, dim: int) -> Tensor:
    return value.amax(dim) if value.shape[dim] else value.sum(dim)
