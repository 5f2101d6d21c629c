"""The exponential and the power cone in the cone program engine: barriers, conjugate gradients, Tunçel's scaling.

Points are ``(B, k, 3)``, a triple for each of k cones; equations (CIP-n) stand in docs/theory/cone_interior_point.md.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.numeric import matvec

NEWTON_STEPS = 12  # both scalar equations are solved to rounding after seven
LARGEST = 600.0  # logarithm of the largest ratio that the power cone tells from infinity
LOG_4 = math.log(4)
UNIT_EXPONENTIAL = (-1.0513839453, 0.5564096195, 1.2589678849)


class Barrier(NamedTuple):
    """``r`` of the barrier ``-log r + ...`` of the dual cone, and its derivatives; ``h`` those of the rest (CIP-17)."""

    r: Tensor  # (B, k)
    slope: Tensor  # (B, k, 3)
    curvature: Tensor  # (B, k, 3, 3)
    h: Tensor  # (B, k, 3)
    dh: Tensor
    ddh: Tensor

    @property
    def gradient(self) -> Tensor:
        return self.h - self.slope / self.r[..., None]

    @property
    def hessian(self) -> Tensor:
        part, r = _outer(self.slope, self.slope), self.r[..., None, None]
        return part / r**2 - self.curvature / r + torch.diag_embed(self.dh)


class Curved:
    """Cones of one of the two kinds, side by side.

    Args:
        index: ``(k, 3)`` the rows of each cone.
    """

    symmetric = False

    def __init__(self, index: Tensor):
        self.index = index
        self.degree = 3 * len(index)

    @abstractmethod
    def unit(self, like: Tensor) -> Tensor:
        """``(k, 3)`` the point that is its own ``-grad f*``."""

    @abstractmethod
    def barrier(self, z: Tensor) -> Barrier:
        """Of the dual cone at z."""

    @abstractmethod
    def third(self, z: Tensor, d: Tensor, e: Tensor) -> Tensor:
        """The third derivative of r along d and e."""

    @abstractmethod
    def values(self, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """``f(s) + 3`` and ``f*(z)``, ``(B, k)``; NaN or infinite outside."""

    @abstractmethod
    def conjugate(self, s: Tensor) -> Tensor:
        """``-grad f(s)``."""

    def proximity(self, s: Tensor, z: Tensor) -> Tensor:
        """``(B,)`` the term of these cones in (CIP-9); infinite outside."""
        primal, dual = self.values(s, z)
        total = (primal + dual).sum(-1)
        return torch.where(torch.isfinite(total), total, torch.inf)

    def scale(self, s: Tensor, z: Tensor, primal_dual: Tensor) -> PrimalDual:
        return PrimalDual(self, s, z, primal_dual)


class PrimalDual:
    """The scaling (CIP-13); with the Hessian of the dual barrier alone where `primal_dual (B,)` is False."""

    def __init__(self, cones: Curved, s: Tensor, z: Tensor, primal_dual: Tensor):
        self.cones, self.z = cones, z
        self.barrier = cones.barrier(z)
        G, shadow_s, shadow_z = self.barrier.hessian, -self.barrier.gradient, cones.conjugate(s)
        mu, shadow_mu = ((_dot(s, z) / 3)[..., None], (_dot(shadow_s, shadow_z) / 3)[..., None])
        ds, dz = s - mu * shadow_s, z - mu * shadow_z
        # Orthogonal by definition; what rounding takes from that near the boundary is put back.
        ds, dz = ds - _dot(ds, z)[..., None] / (3 * mu) * s, dz - _dot(dz, s)[..., None] / (3 * mu) * z
        Gz = matvec(G, shadow_z)
        excess = (_dot(shadow_z, Gz)[..., None] - 3 * shadow_mu**2)[..., None]
        r = shadow_mu * shadow_s - Gz
        rest = G - _outer(shadow_s, shadow_s) / 3 - _outer(r, r) / excess
        t = mu[..., None] * torch.linalg.matrix_norm(rest)[..., None, None]
        axis = torch.linalg.cross(z, dz)
        axis = axis / torch.linalg.vector_norm(axis, dim=-1, keepdim=True)
        along = _dot(ds, dz)[..., None, None]
        H = _outer(s, s) / (3 * mu)[..., None] + _outer(ds, ds) / along + t * _outer(axis, axis)
        eps = torch.finfo(s.dtype).eps
        distinct = ((mu * shadow_mu - 1).abs() > eps**0.5)[..., None] & (excess > eps) & (along > 0)
        distinct = distinct & primal_dual[:, None, None, None] & torch.isfinite(H).all(-1).all(-1)[..., None, None]
        self.G, self.H = G, torch.where(distinct, H, mu[..., None] * G)

    def reach(self, ds: Tensor, dz: Tensor) -> Tensor:
        """No closed form: the step is shortened until :meth:`Curved.proximity` is finite."""
        return ds.new_full(ds.shape[:1], torch.inf)

    def corrected(self, ds: Tensor, dz: Tensor, target: Tensor) -> Tensor:
        """(CIP-15), `target (B, 1, 1)` being sigma mu."""
        factor, info = torch.linalg.cholesky_ex(self.G)
        solved = torch.cholesky_solve(ds[..., None], factor)[..., 0]
        solved = torch.where((info == 0)[..., None], solved, 0.0)
        b = self.barrier
        r, h = b.r[..., None], b.ddh
        along_d, along_e = _dot(b.slope, dz)[..., None], _dot(b.slope, solved)[..., None]
        curved_d, curved_e = matvec(b.curvature, dz), matvec(b.curvature, solved)
        third = -2 * along_d * along_e / r**3 * b.slope
        third = third + (_dot(dz, curved_e)[..., None] * b.slope + along_d * curved_e + along_e * curved_d) / r**2
        third = third - self.cones.third(self.z, dz, solved) / r + h * dz * solved
        return target * b.gradient - 0.5 * third


class Exponential(Curved):
    """(CIP-16), (CIP-18)."""

    def unit(self, like: Tensor) -> Tensor:
        return like.new_tensor(UNIT_EXPONENTIAL).expand(len(self.index), 3)

    def barrier(self, z: Tensor) -> Barrier:
        u, v, w = z.unbind(-1)
        zero, one = torch.zeros_like(u), torch.ones_like(u)
        height = (-w / u).log()
        slope = torch.stack([-height, one, -u / w], -1)
        curvature = _symmetric(1 / u, zero, -1 / w, zero, zero, u / w**2)
        h, dh, ddh = (torch.stack([f(u), zero, f(w)], -1) for f in (_d_log, _dd_log, _ddd_log))
        return Barrier(v - u - u * height, slope, curvature, h, dh, ddh)

    def third(self, z: Tensor, d: Tensor, e: Tensor) -> Tensor:
        u, _, w = z.unbind(-1)
        du, _, dw = (d / z).unbind(-1)
        eu, _, ew = (e / z).unbind(-1)
        return torch.stack([dw * ew - du * eu, torch.zeros_like(u), (u / w) * (du * ew + dw * eu - 2 * dw * ew)], -1)

    def values(self, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        u, v, w = z.unbind(-1)
        dual = -(v - u - u * (-w / u).log()).log() - (-u).log() - w.log()
        _, y, height = s.unbind(-1)
        e = self._root(s)
        return torch.log1p(e) - 2 * e.log() - 2 * y.log() - height.log(), dual

    def conjugate(self, s: Tensor) -> Tensor:
        _, y, height = s.unbind(-1)
        e = self._root(s)
        u = -1 / (e * y)
        return torch.stack([u, 1 / y + u * (1 + ((1 + e) * y / height).log()), (1 + e) / (e * height)], -1)

    def _root(self, s: Tensor) -> Tensor:
        """The e with ``e + log(1 + e) = delta``."""
        x, y, height = s.unbind(-1)
        delta = -x / y - (y / height).log()
        e = 0.5 * delta
        for _ in range(NEWTON_STEPS):
            e = e - (e + torch.log1p(e) - delta) * (1 + e) / (2 + e)
        return e


class Power(Curved):
    """(CIP-19), (CIP-20); `exponents (k,)`."""

    def __init__(self, index: Tensor, exponents: Tensor):
        super().__init__(index)
        self.shares = torch.stack([exponents, 1 - exponents], -1)  # (k, 2)

    def unit(self, like: Tensor) -> Tensor:
        return torch.cat([(1 + self.shares).sqrt(), like.new_zeros(len(self.index), 1)], -1)

    def barrier(self, z: Tensor) -> Barrier:
        u, w, power = z[..., :2], z[..., 2], self._height(z)
        beta, zero = 2 * self.shares, torch.zeros_like(w)
        rates = beta / u
        slope = torch.cat([power[..., None] * rates, -2 * w[..., None]], -1)
        bend = power[..., None, None] * (_outer(rates, rates) - torch.diag_embed(rates / u))
        curvature = torch.nn.functional.pad(bend, (0, 1, 0, 1))
        curvature = curvature - 2 * torch.diag_embed(z.new_tensor([0.0, 0.0, 1.0]))
        other = self.shares.flip(-1)
        h, dh, ddh = (torch.cat([other * f(u), zero[..., None]], -1) for f in (_d_log, _dd_log, _ddd_log))
        return Barrier(power - w**2, slope, curvature, h, dh, ddh)

    def third(self, z: Tensor, d: Tensor, e: Tensor) -> Tensor:
        u, beta, power = z[..., :2], 2 * self.shares, self._height(z)[..., None]
        D, E = d[..., :2] / u, e[..., :2] / u
        bd, be, bde = ((beta * part).sum(-1, keepdim=True) for part in (D, E, D * E))
        third = power * beta / u * (bd * be - bde - D * be - E * bd + 2 * D * E)
        return torch.nn.functional.pad(third, (0, 1))

    def values(self, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        other = self.shares.flip(-1)
        dual = -(self._height(z) - z[..., 2] ** 2).log() - (other * z[..., :2].log()).sum(-1)
        u, r = self._conjugate(s)
        inside = (s[..., :2] > 0).all(-1) & (self._ratio(s) > 0)
        return torch.where(inside, r.log() + (other * u.log()).sum(-1), torch.nan), dual

    def conjugate(self, s: Tensor) -> Tensor:
        u, r = self._conjugate(s)
        return torch.cat([u, (-0.5 * s[..., 2] * r)[..., None]], -1)

    def _height(self, z: Tensor) -> Tensor:
        return (2 * self.shares * (z[..., :2] / self.shares).log()).sum(-1).exp()

    def _ratio(self, s: Tensor) -> Tensor:
        """The logarithm of the squared height of the cone over that of s."""
        height = (2 * self.shares * s[..., :2].log()).sum(-1) - 2 * s[..., 2].abs().log()
        return height.clamp(max=LARGEST)

    def _conjugate(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """The first two entries of ``-grad f(s)``, and r."""
        a, ratio = self.shares, self._ratio(s)
        log_k = -torch.expm1(ratio).log()
        for _ in range(NEWTON_STEPS):
            k = log_k.exp()
            sides = (1 + a) / a + 2 * k[..., None]
            value = (2 * a * sides.log()).sum(-1) - LOG_4 - log_k - torch.log1p(k) - ratio
            fall = (4 * a * k[..., None] / sides).sum(-1) - 1 - k / (1 + k)
            log_k = log_k - value / fall
        k = log_k.exp()
        u = (1 + a + 2 * a * k[..., None]) / s[..., :2]
        return u, self._height(u) / (1 + k)


def _d_log(t: Tensor) -> Tensor:
    return -1 / t


def _dd_log(t: Tensor) -> Tensor:
    return 1 / t**2


def _ddd_log(t: Tensor) -> Tensor:
    return -2 / t**3


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]


def _symmetric(xx: Tensor, xy: Tensor, xz: Tensor, yy: Tensor, yz: Tensor, zz: Tensor) -> Tensor:
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], -1).unflatten(-1, (3, 3))
