"""The end of an interior-point run: Newton steps on the active set, and what the theorem of the derivative asks for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import can_read, choose, surely_none
from .._base.numeric import matvec
from .derivatives import Values, second

ROUNDS = 4


class KKTPoint(NamedTuple):
    """A point with its multipliers, and the functions of a program with their derivatives there."""

    x: Tensor  # (B, n)
    y: Tensor  # (B, k)
    z: Tensor  # (B, m)
    c: Tensor  # (B, 1 + k + m): objective, equalities, inequalities
    J: Tensor  # (B, 1 + k + m, n)
    H: Tensor  # (B, n, n) of the Lagrangian

    def slack(self, k: int) -> Tensor:
        """``max(-g, 0)``."""
        return (-self.c[:, 1 + k :]).clamp(min=0)


def conditions(point: KKTPoint, s: Tensor, k: int) -> Tensor:
    """``(B, 3)``: how far the KKT conditions are from holding with slacks `s`, relative to their terms (IPC-8)."""
    x, y, z, c, J, _ = point
    parts = [J[:, 0], matvec(J[:, 1 : 1 + k].mT, y), matvec(J[:, 1 + k :].mT, z)]
    dual = largest(parts[0] + parts[1] + parts[2]) / (
        1 + torch.maximum(largest(parts[0]), largest(parts[1] + parts[2]))
    )
    unit = 1 + matvec(J[:, 1:].abs(), x.abs())
    h, g = c[:, 1 : 1 + k], c[:, 1 + k :]
    primal = largest(torch.cat([h, g + s], -1) / unit)
    complementarity = largest(torch.minimum(s / unit[:, k:], z / (1 + largest(z).unsqueeze(-1))))
    return torch.stack([primal, dual, complementarity], -1)


def active_set(point: KKTPoint, k: int) -> Tensor:
    """(B, m): a constraint is active if its multiplier exceeds its slack; weakly active ones count as inactive."""
    least = torch.finfo(point.z.dtype).eps ** (2 / 3) * (1 + largest(point.z))
    return point.z > torch.maximum(point.slack(k), least.unsqueeze(-1))


def polish(values: Values, point: KKTPoint, wanted: Tensor, k: int) -> tuple[KKTPoint, Tensor, Tensor]:
    """Take `wanted` samples to rounding by Newton steps on the active set (IPC-9).

    Returns the point, its active set, and the inverse of the KKT matrix there.
    """
    rounding = 16 * torch.finfo(point.x.dtype).eps
    active = active_set(point, k)
    inverse = kkt_inverse(point, active, k)
    for _ in range(ROUNDS):
        candidate = _newton(values, point, active, inverse, k)
        error, before = (conditions(at, at.slack(k), k).amax(-1) for at in (candidate, point))
        better = wanted & (error < before)
        point = choose(better, candidate, point)
        violated = candidate.c[:, 1 + k :] > rounding
        following = torch.where(better.unsqueeze(-1), active_set(point, k), active_set(candidate, k) | violated)
        change = (following != active).any(-1) & wanted
        active = torch.where(wanted.unsqueeze(-1), following, active)
        if not surely_none(change):
            inverse = kkt_inverse(point, active, k)
        wanted = wanted & (change | (better & (error > rounding)))
        if surely_none(wanted):
            break
    final = active_set(point, k)
    if not surely_none((final != active).any(-1)):
        inverse = kkt_inverse(point, final, k)
    return point, final, inverse


def _newton(values: Values, point: KKTPoint, active: Tensor, inverse: Tensor, k: int) -> KKTPoint:
    x, y, z, c, J, _ = point
    n = x.shape[-1]
    rhs = torch.cat([-J[:, 0], -c[:, 1 : 1 + k], torch.where(active, -c[:, 1 + k :], 0.0)], -1)
    dx, y, z = matvec(inverse, rhs).split([n, y.shape[-1], z.shape[-1]], -1)
    z = torch.where(active, z, 0.0)
    x = x + dx
    return KKTPoint(x, y, z, *second(values, x, torch.cat([torch.ones_like(x[:, :1]), y, z], -1)))


def kkt_inverse(point: KKTPoint, active: Tensor, k: int) -> Tensor:
    """The inverse of the KKT matrix on the active set (IPC-10), and the pseudoinverse where that is singular.

    Inactive rows and columns are those of the identity.
    """
    C = point.J[:, 1:]
    kept = torch.cat([torch.ones_like(point.y, dtype=torch.bool), active], -1)
    C = torch.where(kept.unsqueeze(-1), C, 0.0)
    K = torch.cat([torch.cat([point.H, C.mT], -1), torch.cat([C, torch.diag_embed((~kept).to(C.dtype))], -1)], -2)
    usable = K.isfinite().flatten(1).all(-1)
    K = torch.where(usable[:, None, None], K, 0.0)
    scale = torch.ones_like(K[..., 0])
    for _ in range(3):  # Ruiz
        size = (scale.unsqueeze(-1) * K.abs() * scale.unsqueeze(-2)).amax(-1)
        scale = scale * torch.where(size > 0, size, 1.0).rsqrt()
    units = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    K = units * K
    ld, pivots, info = torch.linalg.ldl_factor_ex(K)
    inverse = torch.linalg.ldl_solve(ld, pivots, torch.eye(K.shape[-1], dtype=K.dtype, device=K.device).expand_as(K))
    eps = torch.finfo(K.dtype).eps
    size = K.abs().sum(-1).amax(-1) * inverse.abs().sum(-1).amax(-1)
    singular = (info > 0) | ~(size < 1e-4 / eps)
    if can_read(singular) and not surely_none(singular):
        index = singular.nonzero().squeeze(-1)
        inverse = inverse.index_copy(0, index, _pseudoinverse(K[index]))
    return units * inverse


def _pseudoinverse(K: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(K)
    largest = values.abs().amax(-1, keepdim=True)
    kept = values.abs() > torch.finfo(K.dtype).eps ** 0.7 * largest
    inverted = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    return (vectors * inverted.unsqueeze(-2)) @ vectors.mT


def concave(point: KKTPoint, active: Tensor | None, k: int) -> Tensor:
    """(B): the Lagrangian curves downwards along some direction, in which no active constraint changes (IPC-11)."""
    diagonal = point.H.abs().amax(-1)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    H = scale.unsqueeze(-1) * point.H * scale.unsqueeze(-2)
    identity = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    shift = torch.finfo(H.dtype).eps ** 0.4
    _, info = torch.linalg.cholesky_ex(H + shift * identity)
    if surely_none(info > 0):  # convex as a whole
        return info > 0
    if active is None:
        kept = torch.zeros_like(point.J[:, 1:, 0], dtype=torch.bool)
    else:
        kept = torch.cat([torch.ones_like(point.y, dtype=torch.bool), active], -1)
    C = torch.where(kept.unsqueeze(-1), point.J[:, 1:], 0.0) * scale.unsqueeze(-2)
    tangent = identity - torch.linalg.pinv(C, rtol=1e-9) @ C
    finite = (info > 0) & (H.isfinite().flatten(1).all(-1) & C.isfinite().flatten(1).all(-1))
    curvature = torch.where(finite[:, None, None], tangent.mT @ H @ tangent, 0.0)
    return torch.linalg.eigvalsh(curvature)[:, 0] < -shift


def largest(v: Tensor) -> Tensor:
    """Max-norm over the last dimension; 0 of nothing."""
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])
