"""The engine of this library as a solver for cvxpylayers: ``CvxpyLayer(..., solver=OptLayers())``."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .._base.pattern import Pattern
from .._base.status import Status, solve_error
from ..functional.cone import solve_values
from ..functional.cone_data import Structure
from ..layers.canonical import cones_of
from ..layers.cvxpy import adjusted
from ..layers.quadratic import QuadraticProgram
from ..solvers import Clarabel
from ..solvers.conic import ConeSolver

try:  # lazily typed: an optional dependency without type stubs
    _Interface: Any = importlib.import_module("cvxpylayers.interfaces.base").SolverInterface
except ImportError as error:
    raise ImportError(
        "optlayers.compat.cvxpylayers needs the package cvxpylayers, 1.2 or newer: pip install cvxpylayers. "
        "ol.CvxpyLayer, which has the same call signature, does without."
    ) from error


class OptLayers(_Interface):
    r"""A solver for the torch layer of cvxpylayers.

    ``CvxpyLayer(problem, parameters, variables, solver=OptLayers())`` canonicalizes as cvxpylayers does, and solves and
    differentiates the whole batch here: by :func:`~optlayers.solve_qp` if the program is a quadratic one, else by
    :func:`~optlayers.solve_cone`. ``quad_form(x, P)`` with a parameter ``P`` in the objective is accepted.

    What :class:`~optlayers.CvxpyLayer` adds to it: derivatives of higher order and in forward mode, vmap, a status for
    each sample, float32 in = float32 out, memory in proportion to the nonzeros of the maps.

    Args:
        solver: :class:`~optlayers.Clarabel` or :class:`~optlayers.SCS`; None: the one for quadratic programs, or
            Clarabel.
        throw: raise :class:`~optlayers.SolveError` if a sample fails; otherwise it is NaN, with zero gradient.

    Raises:
        ImportError: cvxpylayers is not installed.
        ValueError: one object is given to two layers, whose structures it cannot both hold.
    """

    canon_solver = "CLARABEL"  # whose cones, row order and sign conventions are ours
    supports_quad_obj = True

    def __init__(self, solver: ConeSolver | None = None, *, throw: bool = True):
        self.solver, self.throw = solver, throw
        self.structure: Structure | None = None

    def setup(self, ctx: Any) -> None:
        """Called once by the layer: the patterns of ``P`` and ``A``."""
        if self.structure is not None:
            raise ValueError("OptLayers: this object is the solver of another layer; give each layer its own.")
        n = int(ctx.q.shape[0]) - 1  # the last one is the constant of the objective
        rows, starts, (m, _) = ctx.reduced_A.problem_data_index
        self.entries = int(starts[n])  # of A; then come those of b, in these rows
        self.rows_of_b = torch.from_numpy(np.asarray(rows[self.entries :], np.int64))
        self.m = int(m)
        self.structure = Structure(cones_of(ctx.cone_dims), _objective(ctx, n), _pattern(rows, starts[: n + 1], m))
        self.quadratic = None
        cones = self.structure.cones
        if self.solver is None and cones.rows == cones.zero + cones.nonneg:
            constants = -_constants(ctx.reduced_A.reduced_mat)[: self.entries]
            self.quadratic = QuadraticProgram(cones, self.structure.on_P, self.structure.on_A, constants)

    def solve_torch_batch(
        self, P: Tensor | None, q: Tensor, A: Tensor, dims: Any, solver_args: dict[str, Any], needs_grad: bool
    ) -> tuple[Tensor, Tensor, Any]:
        """``P (B, nnz)``, ``q (B, n + 1)`` and ``A (B, nnz)``, with ``b`` in it, to ``x (B, n)`` and ``z (B, m)``."""
        given = [tensor for tensor in (P, q, A) if tensor is not None]
        with torch.set_grad_enabled(needs_grad):  # cvxpylayers calls this where nothing is recorded
            leaves = [tensor.detach().requires_grad_(needs_grad) for tensor in given]
            x, z = self._solve(leaves, solver_args)
        return x.detach(), z.detach(), (leaves, x, z)

    def derivative_torch_batch(self, dprimal: Tensor, ddual: Tensor, saved_state: Any) -> tuple[Any, Tensor, Tensor]:
        """The gradients in what the solve was given."""
        leaves, x, z = saved_state
        grads = torch.autograd.grad(
            [x, z], leaves, [dprimal.to(x), ddual.to(z)], retain_graph=True, materialize_grads=True
        )
        return grads[0] if len(grads) == 3 else None, grads[-2], grads[-1]

    def _solve(self, tensors: list[Tensor], solver_args: dict[str, Any]) -> tuple[Tensor, Tensor]:
        assert self.structure is not None
        dtype, count = tensors[-1].dtype, len(tensors[-1])
        *objective, q, A = (tensor.double() for tensor in tensors)
        P = objective[0] if objective else q[:, :0]
        b = q.new_zeros(count, self.m).index_copy(1, self.rows_of_b.to(q.device), A[:, self.entries :])
        data = [P, q[:, :-1], -A[:, : self.entries], b]  # cvxpy says Ax + b in K
        if self.quadratic is not None:
            found = self.quadratic.solve(data, count)
        else:
            found = solve_values(self.structure, data, count, adjusted(self.solver or Clarabel(), solver_args))
        solved = found.status == int(Status.SOLVED)
        if self.throw and not solved.all():
            raise solve_error("OptLayers", found.status, found.residuals)
        return found.x.to(dtype), torch.where(solved.unsqueeze(-1), found.z, torch.nan).to(dtype)


def _objective(ctx: Any, n: int) -> Pattern:
    index = ctx.reduced_P.problem_data_index
    if ctx.reduced_P.reduced_mat is None or index is None:
        return Pattern(np.zeros(0, int), np.zeros(0, int), (n, n))
    return _pattern(index[0], index[1][: n + 1], n)


def _pattern(rows: np.ndarray, starts: np.ndarray, m: int) -> Pattern:
    """Of compressed columns."""
    n = len(starts) - 1
    return Pattern(np.asarray(rows[: starts[-1]], np.int64), np.repeat(np.arange(n), np.diff(starts)), (int(m), n))


def _constants(entries: Any) -> np.ndarray:
    """What no parameter enters; NaN for the others. The last column is that of the one behind the parameters."""
    entries = sp.csc_array(entries)
    varying = np.diff(sp.csr_array(entries[:, :-1]).indptr) > 0
    return np.where(varying, np.nan, entries[:, [-1]].toarray().ravel())
