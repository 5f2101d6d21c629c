"""The symmetric cones in the cone program engine, with their Nesterov-Todd scalings.

Points are ``(B, k, d)``, k cones of one size side by side; equations (CIP-n): docs/theory/cone_interior_point.md.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Scaling(Protocol):
    """What the iteration asks of a pair of points inside a cone and its dual."""

    H: Tensor  # (B, k, d, d)

    def reach(self, ds: Tensor, dz: Tensor) -> Tensor:
        """``(B,)`` the largest step that keeps both points inside, infinite if all do."""
        ...

    def corrected(self, ds: Tensor, dz: Tensor, target: Tensor) -> Tensor:
        """``(B, k, d)`` the corrector's term c of (CIP-8); `target (B, 1, 1)` is sigma mu."""
        ...


class Cone(Protocol):
    """What the iteration asks of cones of one kind and size: ``index (k, d)`` holds the rows of each."""

    index: Tensor
    degree: int
    symmetric: bool

    def unit(self, like: Tensor) -> Tensor:
        """``(k, d)`` the unit point."""
        ...

    def scale(self, s: Tensor, z: Tensor, primal_dual: Tensor) -> Scaling:
        """`primal_dual (B,)` only means something to cones that are not symmetric."""
        ...

    def proximity(self, s: Tensor, z: Tensor) -> Tensor:
        """``(B,)`` the term of these cones in (CIP-9); infinite outside."""
        ...


class Zero:
    """Equations, each a cone of one row."""

    degree = 0
    symmetric = True

    def __init__(self, index: Tensor):
        self.index = index

    def unit(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.index.shape)

    def margin(self, v: Tensor) -> Tensor:
        return v.new_full(v.shape[:1], torch.inf)

    def scale(self, s: Tensor, z: Tensor, primal_dual: Tensor) -> Free:
        return Free(s)

    def proximity(self, s: Tensor, z: Tensor) -> Tensor:
        return s.new_zeros(s.shape[:1])


class Free:
    """The scaling of equations, of which nothing is asked."""

    def __init__(self, s: Tensor):
        self.H = torch.zeros_like(s)[..., None]

    def reach(self, ds: Tensor, dz: Tensor) -> Tensor:
        return ds.new_full(ds.shape[:1], torch.inf)

    def corrected(self, ds: Tensor, dz: Tensor, target: Tensor) -> Tensor:
        return torch.zeros_like(ds)


class SecondOrder:
    """Second-order cones; half-lines are those of one row."""

    symmetric = True

    def __init__(self, index: Tensor):
        self.index = index
        self.degree = len(index)

    def unit(self, like: Tensor) -> Tensor:
        unit = like.new_zeros(self.index.shape)
        unit[:, 0] = 1.0
        return unit

    def margin(self, v: Tensor) -> Tensor:
        """The smallest eigenvalue."""
        return (v[..., 0] - _norm(v[..., 1:])).amin(-1)

    def scale(self, s: Tensor, z: Tensor, primal_dual: Tensor) -> Lorentz:
        return Lorentz(s, z)

    def proximity(self, s: Tensor, z: Tensor) -> Tensor:
        total = -(_interval(s).log() + _interval(z).log()).sum(-1)
        return torch.where(torch.isfinite(total), total, torch.inf)


class Lorentz:
    """(CIP-11)."""

    def __init__(self, s: Tensor, z: Tensor):
        size_s, size_z = _interval(s)[..., None], _interval(z)[..., None]
        self.s, self.z = (s / size_s, size_s), (z / size_z, size_z)
        s, z = self.s[0], self.z[0]
        omega = (s + _flip(z)) / (2 * (1 + _dot(s, z))).sqrt()
        self.theta, self.omega = (size_s / size_z).sqrt(), omega
        J = torch.diag(_flip(omega.new_ones(omega.shape[-1])))
        self.H = self.theta[..., None] ** 2 * (2 * omega[..., :, None] * omega[..., None, :] - J)

    def scaled(self, v: Tensor) -> Tensor:
        """``Wv`` over theta."""
        return _boost(self.omega, v)

    def reach(self, ds: Tensor, dz: Tensor) -> Tensor:
        steps = []
        for (at, size), move in ((self.s, ds), (self.z, dz)):
            turned = _boost(_flip(at), move) / size  # `at` becomes the unit, and a step stays inside up to 1 / rate
            rate = _norm(turned[..., 1:]) - turned[..., 0]
            steps.append(torch.where(rate > 0, 1 / rate, torch.inf).amin(-1))
        return torch.minimum(*steps)

    def corrected(self, ds: Tensor, dz: Tensor, target: Tensor) -> Tensor:
        a, b = _flip(self.scaled(_flip(ds))) / self.theta, self.theta * self.scaled(dz)
        product = torch.cat([_dot(a, b) - target, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:]], -1)
        scale = self.theta * self.z[1]
        point = scale * self.scaled(self.z[0])  # lambda
        head, tail = point[..., :1], point[..., 1:]
        first = _dot(point, _flip(product)) / (self.s[1] * self.z[1])  # |lambda|_J^2 = |s|_J |z|_J
        divided = torch.cat([first, (product[..., 1:] - first * tail) / head], -1)
        return self.theta * self.scaled(divided)


class Semidefinite:
    """Matrices of one order, as scaled upper triangles."""

    symmetric = True

    def __init__(self, index: Tensor):
        self.index = index
        size = index.shape[1]
        self.order = (math.isqrt(8 * size + 1) - 1) // 2
        self.degree = self.order * len(index)
        # The upper triangle column by column is the lower one row by row, transposed.
        self.cols, self.rows = torch.tril_indices(self.order, self.order, device=index.device)
        self.entry = index.new_zeros(self.order, self.order)
        self.entry[self.rows, self.cols] = self.entry[self.cols, self.rows] = torch.arange(size, device=index.device)
        self.weight = (1.0 + (self.rows != self.cols).double()).sqrt()

    def matrix(self, v: Tensor) -> Tensor:
        return (v / self.weight)[..., self.entry]

    def triangle(self, X: Tensor) -> Tensor:
        return X[..., self.rows, self.cols] * self.weight

    def unit(self, like: Tensor) -> Tensor:
        return (self.rows == self.cols).to(like.dtype).expand(self.index.shape)

    def margin(self, v: Tensor) -> Tensor:
        """The smallest eigenvalue."""
        return torch.linalg.eigvalsh(_finite(self.matrix(v))).amin((-2, -1))

    def scale(self, s: Tensor, z: Tensor, primal_dual: Tensor) -> Congruence:
        return Congruence(self, s, z)

    def proximity(self, s: Tensor, z: Tensor) -> Tensor:
        total = s.new_zeros(s.shape[:1])
        for point in (s, z):
            factor = _cholesky(self.matrix(point))
            total = total - 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
        return torch.where(torch.isfinite(total), total, torch.inf)


class Congruence:
    """The scaling R of a semidefinite cone."""

    def __init__(self, cone: Semidefinite, s: Tensor, z: Tensor):
        self.cone = cone
        L_s, L_z = _cholesky(cone.matrix(s)), _cholesky(cone.matrix(z))
        U, self.eigenvalues, Vh = torch.linalg.svd(_finite(L_z.mT @ L_s))
        root = self.eigenvalues.sqrt()
        self.R = (L_s @ Vh.mT) / root[..., None, :]
        self.inverse = (L_z @ U).mT / root[..., :, None]
        self.factors = L_s, L_z

    @cached_property
    def H(self) -> Tensor:
        G, rows, cols, weight = self.R @ self.R.mT, self.cone.rows, self.cone.cols, self.cone.weight
        i, j = rows[:, None], cols[:, None]
        product = G[..., i, rows] * G[..., j, cols] + G[..., i, cols] * G[..., j, rows]
        return 0.5 * product * weight * weight[:, None]

    def reach(self, ds: Tensor, dz: Tensor) -> Tensor:
        steps = []
        for factor, move in zip(self.factors, (ds, dz), strict=True):
            half = torch.linalg.solve_triangular(factor, self.cone.matrix(move), upper=False)
            whole = torch.linalg.solve_triangular(factor, half.mT, upper=False)
            least = torch.linalg.eigvalsh(_finite(whole)).amin((-2, -1))
            steps.append(torch.where(least < 0, -1 / least, torch.inf))
        return torch.minimum(*steps)

    def corrected(self, ds: Tensor, dz: Tensor, target: Tensor) -> Tensor:
        S, Z = self.cone.matrix(ds), self.cone.matrix(dz)
        a, b = self.inverse @ S @ self.inverse.mT, self.R.mT @ Z @ self.R
        product = 0.5 * (a @ b + b @ a) - target[..., None] * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        lam = self.eigenvalues
        divided = 2 * product / (lam[..., :, None] + lam[..., None, :])
        return self.cone.triangle(self.R @ divided @ self.R.mT)


def _cholesky(X: Tensor) -> Tensor:
    """NaN where X is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(X)
    return torch.where((info == 0)[..., None, None], factor, torch.nan)


def _finite(X: Tensor) -> Tensor:
    """NaN would stop an eigenvalue routine for the whole batch; its samples are told apart elsewhere."""
    return torch.where(torch.isfinite(X).all(-1).all(-1)[..., None, None], X, torch.eye(X.shape[-1]).to(X))


def _interval(v: Tensor) -> Tensor:
    """``|v|_J`` as a product, which keeps its digits near the boundary."""
    radius = _norm(v[..., 1:])
    return ((v[..., 0] - radius) * (v[..., 0] + radius)).sqrt()


def _boost(w: Tensor, v: Tensor) -> Tensor:
    """The hyperbolic rotation that takes the unit to w, with ``|w|_J = 1``, applied to v."""
    first = _dot(w, v)
    return torch.cat([first, v[..., 1:] + (v[..., :1] + first) / (1 + w[..., :1]) * w[..., 1:]], -1)


def _flip(v: Tensor) -> Tensor:
    """``Jv``."""
    return torch.cat([v[..., :1], -v[..., 1:]], -1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=-1) if v.shape[-1] else v.new_zeros(v.shape[:-1])
