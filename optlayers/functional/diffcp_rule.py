"""The linear systems of a cone program's derivative by diffcp, as an alternative to our own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .._base.pattern import SparseArray
from ..implicit.opaque import opaque
from ..implicit.rule import Rule, attach
from ..solvers.conic import Columns, Cones
from ..solvers.conic_scs import cone_dict, row_order
from .cone_blocks import project
from .cone_data import Structure
from .cone_rule import ConeRule, residual, terms

ACCURACY = 1e-9  # asked of SCS, which diffcp calls; it starts at our solution


@dataclass(frozen=True)
class Diffcp:
    """Differentiate cone programs by the package diffcp: an ``adjoint=`` of :func:`~optlayers.solve_cone`.

    The rule stays the one of :class:`~optlayers.Implicit`; its linear systems are solved through the derivative of the
    homogeneous embedding, one sample after the other. It is for comparison: slower, and as accurate as LSQR is. A
    quadratic objective is restated by a second-order cone, and the program is solved a second time, from our solution.
    First-order derivatives are what it is tested for.

    Args:
        dense: factor a dense matrix in place of LSQR.

    Raises:
        ImportError: when it is first used, diffcp is not installed.
        ValueError: the program has power cones, which diffcp does not know.

    References: Agrawal et al., "Differentiating through a cone program" (2019).
    """

    dense: bool = False


class DiffcpRule(Rule):
    """``J (dx, dv) = (r1, r2)`` of (CONE-3) is what perturbing ``q`` by ``-r1`` and ``b`` by ``r2 / w`` does."""

    differentiable = ConeRule.differentiable

    def __init__(self, structure: Structure, adjoint: Diffcp):
        self.structure = structure
        if structure.cones.power:
            raise ValueError("solve_cone: adjoint is ol.Diffcp(), but diffcp has no power cones; use ol.Implicit().")
        self.adjoint = adjoint
        self.module = _import_diffcp()

    def residual(self, x, args):
        return residual(terms(self.structure, x, args), args)

    def solve_linear(self, x, args, rhs, transpose):
        def solve(count: int, tensors: list[Tensor]) -> list[Tensor]:
            x, v, P, q, A, b, w, r1, r2 = (tensor.cpu().numpy() for tensor in tensors)
            s = project(self.structure.cones, tensors[1]).cpu().numpy()
            matrices = Columns(self.structure.on_P, P), Columns(self.structure.on_A, A)
            solved = []
            for i in range(count):
                own = [array[i if len(array) > 1 else 0] for array in (q, b, x, s, v, w, r1, r2)]
                solved.append(self._sample(matrices[0].sample(i), matrices[1].sample(i), own, transpose))
            return [
                torch.from_numpy(np.array(part).reshape(count, -1)).to(tensors[0].device)
                for part in zip(*solved, strict=True)
            ]

        return opaque(solve, rhs[0].shape[0], [*x, *args, *rhs])

    def _sample(
        self, P: SparseArray, A: SparseArray, own: Sequence[np.ndarray], transpose: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        q, b, x, s, v, w, r1, r2 = own
        if not r1.any() and not r2.any():  # also samples that failed
            return r1, r2
        program = _Lifted(self.structure.cones, P, q, A, b)
        start = program.point(x, s / w, w * (s - v))
        *_, push, pull = self.module.solve_and_derivative(
            program.A,
            program.b,
            program.q,
            program.cones,
            warm_start=start,
            mode="dense" if self.adjoint.dense else "lsqr",
            solve_method="SCS",
            eps=ACCURACY,
        )
        n = len(q)
        if transpose:
            ds, dz = program.rows(w * r2), program.rows(-r2 / w)
            _, db, dq = pull(program.variables(r1), dz, ds)
            return -dq[:n], program.own_rows(db) / w
        nothing = sp.csc_matrix(program.A.shape)
        dx, dz, ds = push(nothing, program.rows(r2 / w), program.variables(-r1))
        return dx[:n], w * program.own_rows(ds) - program.own_rows(dz) / w


def attach_diffcp(
    structure: Structure, adjoint: Diffcp, point: Sequence[Tensor], args: Sequence[Tensor]
) -> list[Tensor]:
    """As :func:`~optlayers.functional.cone_rule.attach_point`."""
    x, v = attach(DiffcpRule(structure, adjoint), point[:2], args)
    scaled, w = project(structure.cones, v), args[4]
    return [x, scaled / w, w * (scaled - v)]


class _Lifted:
    """The program in the form of diffcp: rows in its order, and ``t >= x'Px / 2`` in the objective."""

    def __init__(self, cones: Cones, P: SparseArray, q: np.ndarray, A: SparseArray, b: np.ndarray):
        n, place = len(q), row_order(cones)
        self.cones = {name: value for name, value in cone_dict(cones).items() if name != "p"}
        symmetric = 0.5 * (P + P.T).toarray()
        self.size, self.n = len(b), n
        if not symmetric.any():
            self.root, self.q, self.place = None, q, place
            self.order = np.arange(len(b))
            self.A, self.b = sp.csc_matrix(A.tocsr()[place]), b[place]
            return
        values, vectors = np.linalg.eigh(symmetric)
        kept = values > 1e-14 * values.max()
        self.root = np.sqrt(2 * values[kept])[:, None] * vectors[:, kept].T  # its square is 2 P
        # ||(1 - t, root x)|| <= 1 + t, behind the other second-order cones
        k, at = len(self.root) + 2, cones.starts[3]
        top = np.array([[0.0] * n + [-1.0], [0.0] * n + [1.0]])
        block = np.concatenate([top, np.concatenate([-self.root, np.zeros((k - 2, 1))], 1)])
        own = sp.hstack([A.tocsr()[place], sp.csr_array((len(b), 1))]).tocsr()
        self.A = sp.csc_matrix(sp.vstack([own[:at], sp.csr_array(block), own[at:]]))
        side = np.concatenate([[1.0, 1.0], np.zeros(k - 2)])
        self.b, self.q = np.concatenate([b[place][:at], side, b[place][at:]]), np.append(q, 1.0)
        self.cones["q"] = [*self.cones["q"], k]
        self.place, self.order = place, np.r_[0:at, at + k : len(b) + k]

    def point(self, x: np.ndarray, s: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``x, z, s`` of this program."""
        z, s = self.rows(z), self.rows(s)
        if self.root is None:
            return x, z, s
        image = self.root @ x
        t = image @ image / 4
        added = np.setdiff1d(np.arange(len(self.b)), self.order)
        s[added] = np.concatenate([[1 + t, 1 - t], image])
        z[added] = 0.5 * np.concatenate([[1 + t, t - 1], -image])
        return np.append(x, t), z, s

    def rows(self, r: np.ndarray) -> np.ndarray:
        """Of this program, from those of the one given."""
        full = np.zeros(len(self.b))
        full[self.order] = r[self.place]
        return full

    def own_rows(self, r: np.ndarray) -> np.ndarray:
        """The other way."""
        own = np.empty(self.size)
        own[self.place] = r[self.order]
        return own

    def variables(self, r: np.ndarray) -> np.ndarray:
        """Of this program, from those of the one given."""
        return np.append(r, np.zeros(len(self.q) - self.n))


def _import_diffcp() -> Any:
    try:
        return importlib.import_module("diffcp")
    except ImportError as error:
        raise ImportError("ol.Diffcp needs the package diffcp: pip install optlayers[cvxpy].") from error
