"""The eigenvalues and eigenvectors of the derivative of a projection onto cones, in closed form, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..solvers.conic import Cones
from .cone_blocks import PROJECTIONS, Group, as_index, groups, matrices, matrix_order, order, triangles

EDGE = 1e-15  # share of a projection, or of what it leaves, below which it counts as zero


class Spectrum:
    """``DP(v) = U diag(lam) U'`` for the projection at ``v (B, m)``; coordinates ``U'r`` come in the order of groups.

    Attributes:
        lam: ``(B, m)`` eigenvalues in [0, 1].
        blocks: for each group its index ``(k, d)`` and eigenvectors ``(B, k, d, d)``, None for unit vectors.
    """

    def __init__(self, cones: Cones, v: Tensor):
        self.order = as_index(order(cones), v)
        self.blocks: list[tuple[Tensor, Tensor | None]] = []
        lam = [v.new_zeros(v.shape[0], 0)]
        for group in groups(cones):
            index = as_index(group.index, v)
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
    a, b = as_index(rows, part), as_index(cols, part)
    products = Q[..., :, a].unsqueeze(-3) * Q[..., :, b].unsqueeze(-2)  # (*, k, k, size): entry, entry, pair
    products = 0.5 * (products + products.transpose(-3, -2))
    pair = matrix_order(part.shape[-1])[2]
    vectors = triangles(products.movedim(-1, -3)).mT * as_index(pair, part)
    positive, size = torch.relu(values), values.abs()
    total = size[..., a] + size[..., b]
    share = (positive[..., a] + positive[..., b]) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, share, 1.0), vectors


def _three(part: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Of a cone in three dimensions: 1 along the projection s, 0 along ``z = s - v``, (CONE-10) across."""
    s = PROJECTIONS[group.kind](part, group)
    z = s - part
    slope, curved, size = _SURFACES[group.kind](s, group)
    length, height = (torch.linalg.vector_norm(side, dim=-1, keepdim=True) for side in (s, z))
    scale = length + height
    inside, outside = height <= EDGE * scale, length <= EDGE * scale
    smooth = ~(inside | outside) & torch.isfinite(slope).all(-1, keepdim=True) & torch.isfinite(size)
    along = torch.where(smooth, s / length, part.new_tensor([1.0, 0.0, 0.0]))
    # Away from the apex the normal of the surface is more exact than a small z.
    normal = torch.where(
        smooth, -slope / torch.linalg.vector_norm(slope, dim=-1, keepdim=True), s.new_tensor([0, 0, 1.0])
    )
    across = torch.linalg.cross(along, normal)
    across = across / torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    curvature = size * (curved * across).sum(-1, keepdim=True) ** 2
    curvature = curvature / torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
    values = torch.cat([torch.ones_like(height), torch.zeros_like(height), 1 / (1 + height * curvature)], -1)
    vectors = torch.stack([along, torch.linalg.cross(across, along), across], -1)
    # On a face, where the surface is flat, the projection keeps the coordinates that it does not set to zero.
    values = torch.where(smooth, values, torch.where(inside, 1.0, torch.where(outside, 0.0, (s != 0).to(s.dtype))))
    identity = torch.eye(3, dtype=s.dtype, device=s.device)
    return values, torch.where(smooth.unsqueeze(-1), vectors, identity)


def _exponential_surface(s: Tensor, _: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``y exp(x / y) - z``: the gradient, and the Hessian as ``size * curved curved'``."""
    x, y, _z = s.unbind(-1)
    ratio = x / y
    growth = ratio.exp()
    slope = torch.stack([growth, growth * (1 - ratio), -torch.ones_like(x)], -1)
    curved = torch.stack([torch.ones_like(x), -ratio, torch.zeros_like(x)], -1)
    return slope, curved, (growth / y).unsqueeze(-1)


def _power_surface(s: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``|z| - x^a y^(1 - a)``, the same."""
    x, y, z = s.unbind(-1)
    a = s.new_tensor(group.exponents)
    height = x**a * y ** (1 - a)
    slope = torch.stack([-a * height / x, -(1 - a) * height / y, z.sign()], -1)
    curved = torch.stack([1 / x, -1 / y, torch.zeros_like(x)], -1)
    return slope, curved, (a * (1 - a) * height).unsqueeze(-1)


_SURFACES = {"exponential": _exponential_surface, "power": _power_surface}
_EIGEN = {
    "zero": _constant(0.0),
    "nonneg": _orthant,
    "second_order": _second_order,
    "psd": _psd,
    "exponential": _three,
    "power": _three,
}
