"""The proximal method of multipliers for a sparse quadratic program, each step of it by a semismooth Newton method."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import brentq

from ..linear_solve.sparse import REGULARIZATION, SaddleFactor, equilibration
from .sparse import SparseProgram

NEWTON_STEPS = 30


class ProximalNewton:
    r"""Steps ``(x, y, z)`` to the saddle point of the Lagrangian plus proximal terms about ``(x, y, z)``.

    Eliminating the multipliers leaves a convex function of x, piecewise quadratic, with weights ``w = 1/r`` that are
    scaled as the matrix is:

        x'Qx/2 + p'x + |x - x_k|^2_{1/w} / 2 + |y_k + w (Ex - e)|^2_{1/w} / 2 + |(z_k + w (Cx - c))_+|^2_{1/w} / 2 .

    Its pieces are the active sets ``z_k + w (Cx - c) > 0``; Newton's step solves the regularized KKT system on one of
    them, and an exact line search makes the method converge from anywhere. The proximal steps converge to a KKT point
    even where neither x nor the multipliers are unique, and fast, for ``r`` is small.

    References: Rockafellar, "Augmented Lagrangians and applications of the proximal point algorithm in convex
        programming" (1976); Hermans, Themelis and Patrinos, "QPALM" (2022).
    """

    def __init__(self, program: SparseProgram):
        self.program = program
        self.scale = equilibration(program.Q, sp.vstack([program.E, program.C], format="csr"))
        sizes = np.cumsum([len(program.p), len(program.e)])
        self.on_x, self.on_E, self.on_C = np.split(self.scale**2 / REGULARIZATION, sizes)

    def factor(self, active: np.ndarray) -> SaddleFactor:
        """The KKT matrix with the `active` rows of C as equalities."""
        rows = sp.vstack([self.program.E, self.program.C[np.flatnonzero(active)]], format="csr")
        always = np.ones(len(self.scale) - len(active), bool)
        return SaddleFactor(self.program.Q, rows, self.scale[np.concatenate([always, active])])

    def newton_target(self, solve, active: np.ndarray, x, y, z):
        """Where the KKT conditions on an active set lead to from a point, by `solve` for a right-hand side."""
        Q, p, E, e, C, c = self.program
        z = np.where(active, z, 0.0)
        stationarity, gaps = Q @ x + p + E.T @ y + C.T @ z, (c - C @ x)[active]
        change = solve(np.concatenate([-stationarity, e - E @ x, gaps]))
        d_x, d_y, d_z = np.split(change, np.cumsum([len(p), len(e)]))
        z[active] += d_z
        return x + d_x, y + d_y, z

    def step(self, x, y, z):
        """One proximal step; returns x, y, z, the active set, its factor and the number of factorizations."""
        program, center = self.program, x
        active = self._piece(x, z)
        for count in range(1, NEWTON_STEPS + 1):
            factor = self.factor(active)
            target = self.newton_target(factor.proximal, active, center, y, z)
            t = self._line_search(x, target[0] - x, center, y, z)
            x = x + t * (target[0] - x)
            following = self._piece(x, z)
            if np.array_equal(following, active):
                x, y, z = target
                return x, y, np.maximum(z, 0.0), active, factor, count
            active = following
        y = y + self.on_E * (program.E @ x - program.e)
        z = np.maximum(z + self.on_C * (program.C @ x - program.c), 0.0)
        return x, y, z, active, self.factor(active), NEWTON_STEPS + 1

    def _piece(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return z + self.on_C * (self.program.C @ x - self.program.c) > 0

    def _line_search(self, x, d, center, y, z) -> Any:
        """The minimizer on the segment from x to x + d; the slope along it is piecewise linear and increasing."""
        Q, p, E, e, C, c = self.program
        Ed, Cd = E @ d, C @ d
        start = d @ (Q @ x + p + (x - center) / self.on_x) + Ed @ (y + self.on_E * (E @ x - e))
        curvature = d @ (Q @ d) + d @ (d / self.on_x) + Ed @ (self.on_E * Ed)
        penalty = z + self.on_C * (C @ x - c)

        def slope(t: float) -> float:
            return start + t * curvature + Cd @ np.maximum(penalty + t * self.on_C * Cd, 0.0)

        # At the minimizer the slope is rounding.
        at_start, at_end = slope(0.0), slope(1.0)
        return brentq(slope, 0.0, 1.0) if at_start < 0 and at_end > -1e-12 * at_start else 1.0
