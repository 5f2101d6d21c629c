"""Sparse quadratic programs: the path of :func:`solve_qp` for matrices in CSR, CSC or scipy format."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from .._base.checks import broadcast_batch, check_shape, check_tensors
from .._base.loop import can_read
from .._base.pattern import Matrix, Pattern, read
from .._base.status import Status, solve_error
from ..implicit import Adjoint, Implicit
from ..implicit.residual import ResidualRule
from ..implicit.rule import attach, untracked
from ..solvers import InteriorPoint
from ..solvers.sparse import Clarabel, SparseSolver
from ..solvers.sparse_sample import SparseSample, solve_sample
from .qp import QPSolution
from .sparse_rule import SparseQPRule

MATRICES = ("Q", "G", "A")


def solve_sparse_qp(
    Q: Matrix,
    p: Tensor,
    G: Matrix | None = None,
    h: Tensor | None = None,
    A: Matrix | None = None,
    b: Tensor | None = None,
    *,
    lb: Tensor | None = None,
    ub: Tensor | None = None,
    solver: SparseSolver | InteriorPoint = Clarabel(),
    adjoint: Adjoint = Implicit(),
    throw: bool = True,
) -> QPSolution:
    """:func:`solve_qp` where a matrix is sparse: the same problem, signs, statuses and derivatives, on the CPU.

    Args:
        Q, G, A: torch CSR or CSC tensors, two-dimensional (shared) or batched on one pattern; scipy matrices, which
            are constants; or dense tensors. The gradient of a sparse tensor has its pattern.
        solver: for one sample, see :class:`~optlayers.solvers.sparse.SparseSolver`. Samples run in parallel, on
            ``torch.get_num_threads()`` threads.

    A sample is SOLVED if the relative residuals of the final point are at most ``solver.eps``, whatever the solver
    says.
    """
    if not isinstance(adjoint, Implicit):
        raise ValueError(f"solve_qp: adjoint is {adjoint!r}; sparse programs are differentiated by ol.Implicit(...).")
    if isinstance(solver, InteriorPoint):
        if solver != InteriorPoint():
            raise ValueError(
                f"solve_qp: solver is {solver!r}, for dense matrices; for sparse ones pass ol.Clarabel(...)."
            )
        solver = Clarabel()
    batch, patterns, data = _flat_data(Q, p, G, h, A, b, lb, ub)
    return solve_values(patterns, data, batch, solver, adjoint, throw)


def solve_values(
    patterns: Sequence[Pattern],
    data: list[Tensor],
    batch: torch.Size,
    solver: SparseSolver = Clarabel(),
    adjoint: Implicit = Implicit(),
    throw: bool = True,
) -> QPSolution:
    """The programs whose ``Q``, ``G``, ``A`` have their values on `patterns`.

    Args:
        data: ``Q, p, G, h, A, b, lb, ub`` with one batch dimension, of size 1 where an argument is shared.
    """
    samples = _solve_samples(solver, patterns, data, batch.numel())
    dtype, n = data[1].dtype, data[1].shape[-1]

    def stacked(name: str, *size: int, dtype: type = float) -> Tensor:
        values = [getattr(sample, name) for sample in samples]
        return torch.from_numpy(np.array(values, dtype).reshape(batch.numel(), *size))

    sizes = [data[index].shape[-1] for index in (5, 3, 6, 7)]
    x, multipliers = stacked("x", n), stacked("multipliers", sum(sizes))
    active, residuals = stacked("active", sum(sizes), dtype=bool), stacked("residuals", 3)
    status, iterations = stacked("status", dtype=np.int64), stacked("iterations", dtype=np.int64)
    solved = status == int(Status.SOLVED)
    if throw and not solved.all():
        raise solve_error("solve_qp", status.reshape(batch), residuals.reshape(*batch, 3))

    certificates = [part.to(dtype) for part in (x, *multipliers.split(sizes, -1))]
    solution = [torch.where(solved[:, None], part, 0.0) for part in certificates]
    if not solved.all():  # whatever is in the data of failed samples (NaN, say) must not reach a gradient
        data = [torch.where(solved[:, None], value, 0.0) for value in data]
    rule = SparseQPRule(patterns, [sample.kkt for sample in samples])
    if adjoint.linear_solve is not None:
        rule = ResidualRule(rule.residual, list, adjoint.linear_solve, rule.differentiable)
    solution = attach(rule, solution, [*data, *active.split(sizes, -1)[1:]])
    s = data[3] - patterns[1].mv(data[2], solution[0])
    if not solved.all():
        certificates[0] = torch.full_like(certificates[0], torch.nan)
        solution = [torch.where(solved[:, None], *pair) for pair in zip(solution, certificates, strict=True)]
        s = torch.where(solved[:, None], s, torch.nan)
    values = (*solution, s, status, iterations, residuals.to(dtype))
    return QPSolution(*(value.reshape((*batch, *value.shape[1:])) for value in values))


def _solve_samples(solver, patterns: Sequence[Pattern], data: Sequence[Tensor], count: int) -> list[SparseSample]:
    """Each sample in float64 by scipy; Clarabel releases the interpreter lock, so that threads pay."""
    arrays: list[np.ndarray] = []

    def take(tensors: list[Tensor]) -> list[Tensor]:
        if not all(map(can_read, tensors)):
            raise RuntimeError("solve_qp: torch.vmap cannot map sparse programs; pass them as one batch.")
        arrays.extend(tensor.detach().double().numpy() for tensor in tensors)
        return []

    untracked(take, data)
    on = {0: patterns[0], 2: patterns[1], 4: patterns[2]}

    def solve(sample: int) -> SparseSample:
        own = [array[sample if len(array) > 1 else 0] for array in arrays]
        parts = [on[i].matrix(value) if i in on else value for i, value in enumerate(own)]
        parts[0] = 0.5 * (parts[0] + parts[0].T)
        return solve_sample(solver, *parts)

    workers = min(torch.get_num_threads(), count)
    if workers <= 1:
        return [solve(sample) for sample in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(solve, range(count)))


def _flat_data(Q, p, G, h, A, b, lb, ub) -> tuple[torch.Size, list[Pattern], list[Tensor]]:
    """Check the arguments; patterns of the matrices, and each argument with one batch dimension, 1 where shared."""
    check_tensors("solve_qp", {"p": p, "h": h, "b": b, "lb": lb, "ub": ub})
    check_shape("solve_qp", "p", p, ("n",))
    n, none = p.shape[-1], p.new_zeros(0)
    if (G is None) != (h is None) or (A is None) != (b is None):
        raise ValueError("solve_qp: one of G, h or of A, b is given without the other; give both.")
    G, h = (p.new_zeros(0, n), none) if G is None else (G, h)
    A, b = (p.new_zeros(0, n), none) if A is None else (A, b)
    named = {"Q": Q, "p": p, "G": G, "h": h, "A": A, "b": b}
    named |= {"lb": none if lb is None else lb, "ub": none if ub is None else ub}
    expected = {"Q": (n, n), "G": ("m", n), "h": G.shape[-2:-1], "A": ("k", n), "b": A.shape[-2:-1]}
    expected |= {name: (n,) for name, bound in (("lb", lb), ("ub", ub)) if bound is not None}
    for name, shape in expected.items():
        check_shape("solve_qp", name, named[name], shape)

    patterns = {}
    for name in MATRICES:
        patterns[name], named[name] = read("solve_qp", name, named[name], p)
    _, device = check_tensors("solve_qp", named)
    if device.type != "cpu":
        raise ValueError(f"solve_qp: sparse programs are solved on the CPU; got tensors on {device}. Move them first.")
    batch = broadcast_batch("solve_qp", {name: (tensor, 1) for name, tensor in named.items()})
    flat = []
    for tensor in named.values():
        leading, size = tensor.shape[:-1], tensor.shape[-1]
        one = leading.numel() == 1
        flat.append(tensor.reshape(1, size) if one else tensor.expand(*batch, size).reshape(batch.numel(), size))
    return batch, list(patterns.values()), flat
