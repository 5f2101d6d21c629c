"""Smooth minimization under constraints given as functions: a batch of programs to a differentiable solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base import tree
from .._base.loop import can_read
from .._base.status import Status, solve_error
from ..implicit import Adjoint, Implicit
from ..implicit.kkt import KKTRule, kkt_residual
from ..implicit.opaque import opaque
from ..implicit.residual import ResidualRule, differentiate_root
from ..implicit.rule import Rule, attach
from ..implicit.tracking import paused, transformed
from ..linear_solve import Auto, LinearSolver
from ..solvers import LBFGS, SmoothInteriorPoint
from .descent import descend, on_batch
from .program import Function, InDims, Program, batch_of

DENSE_LIMIT = 200  # unknowns, up to which Newton steps with the whole Hessian are the faster way


class MinimiseSolution(NamedTuple):
    """Minimizers of a batch of programs; all but the last three are differentiable.

    Attributes:
        x: the minimizer, with the structure of ``init``.
        y: multipliers of the equalities, shaped as what ``equality`` returns; ``(*batch, 0)`` without.
        z: multipliers of the inequalities, nonnegative, shaped as what ``inequality`` returns; ``(*batch, 0)`` without.
        status: ``(*batch)`` int64, one :class:`~optlayers.Status` per sample.
        iterations: ``(*batch)`` int64, steps taken.
        residuals: ``(*batch, 3)`` relative residuals: primal, dual, complementarity; ``(*batch, 1)``, what it stops on,
            of a solver that follows an objective.
    """

    x: Any
    y: Any
    z: Any
    status: Tensor
    iterations: Tensor
    residuals: Tensor


# The iterations depend on values, and take derivatives by autograd, neither of which torch.compile can trace.
@torch.compiler.disable(reason="optlayers.minimise runs in eager mode")
def minimise(
    objective: Function,
    init: Any,
    args: tuple = (),
    *,
    equality: Function | None = None,
    inequality: Function | None = None,
    solver: Any = None,
    optimality: Function | None = None,
    adjoint: Adjoint = Implicit(),
    in_dims: InDims = None,
    throw: bool = True,
) -> MinimiseSolution:
    r"""Minimise a smooth function under smooth constraints, and differentiate the minimizer and its multipliers.

    .. math:: \min_x\ f(x, \theta) \quad\text{s.t.}\quad h(x, \theta) = 0,\; g(x, \theta) \le 0

    The functions are those of one sample; ``in_dims`` makes a batch of them. A convex program (f and g convex, h
    affine) is solved to its minimum. Of any other, a point is returned at which the second-order conditions of a local
    minimum hold; a point at which the Lagrangian curves downwards along the constraints is ``INVALID_INPUT``.

    Args:
        objective: ``f(x, *args)``, one number. Twice continuously differentiable where it is finite. Tensors that it or
            a constraint captures, such as a module's parameters, are shared by the batch and get their gradient as
            well.
        init: where to start, a float32 or float64 pytree shaped like ``x``; the constraints may be violated there, but
            objective and constraints must be finite (a logarithm wants a positive start). Gets no gradient.
        args: tuple of pytrees, differentiable.
        equality, inequality: ``h(x, *args)`` and ``g(x, *args)``, tensors of any shape, or pytrees of them.
        solver: None: :class:`~optlayers.SmoothInteriorPoint`, or :class:`~optlayers.LBFGS` for more than 200 unknowns
            without constraints. Without ``equality`` and ``inequality`` it may be any minimiser that follows an
            objective, such as :class:`~optlayers.ProjectedGradient`, which has a set of its own.
        optimality: ``residual(x, *args)`` of one sample, shaped like ``x`` and zero at the solution, to be
            differentiated in place of the KKT conditions or of what the solver calls optimal. ``y`` and ``z`` are
            constants then.
        adjoint: :class:`~optlayers.Implicit` (exact, at any order); or :class:`~optlayers.Unroll` through the
            iterations of a solver that follows an objective, or through its last ones, before which its state counts as
            constant.
        in_dims: the batch dimension of each argument: None, a single program; an int, for all tensors in ``args``; or a
            tuple with an int or None (shared by the batch) for each. In a batch, ``init`` has the batch in front, or a
            1.
        throw: raise :class:`~optlayers.SolveError` if a sample fails. Otherwise, and where values cannot be read (vmap,
            torch.compile), a failed sample has NaN in ``x``, zero gradient, and its reason in ``status``; its
            multipliers hold the certificate of infeasibility (IPC-12).

    Returns:
        :class:`MinimiseSolution`.

    Raises:
        TypeError, ValueError: arguments, or what the functions return, that do not fit.
        SolveError: a sample is infeasible, unbounded, not convex or did not converge, and ``throw`` is set.

    Under ``torch.compile`` it is a graph break: with ``fullgraph=True`` an error, otherwise the same as in eager mode.

    References: Boyd and Vandenberghe, "Convex optimization" (2004); Fiacco, "Introduction to sensitivity and stability
        analysis in nonlinear programming" (1983).
    """
    batch = batch_of("minimise", init, args, in_dims)
    if solver is None:
        few = batch.init.shape[-1] <= DENSE_LIMIT or equality is not None or inequality is not None
        solver = SmoothInteriorPoint() if few else LBFGS()
    if not isinstance(solver, SmoothInteriorPoint):
        if equality is not None or inequality is not None:
            raise ValueError(
                f"minimise: {solver!r} takes no equality and inequality; expected ol.SmoothInteriorPoint()."
            )
        x, *rest = descend(objective, batch, solver, optimality, adjoint, throw)
        none = batch.init.new_zeros((*rest[0].shape, 0))
        return MinimiseSolution(x, none, none, *rest)
    if not isinstance(adjoint, Implicit):
        raise ValueError(f"minimise: adjoint is {adjoint!r}; expected ol.Implicit(...) with {solver!r}.")
    program = Program("minimise", (objective, equality, inequality), batch)
    found = _search(program, solver, batch.init)
    *point, active, hessian, jacobian, inverse, status, iterations, residuals = found
    solved = status == int(Status.SOLVED)
    readable = can_read(status)
    all_solved = readable and bool(solved.all())
    if throw and readable and not all_solved:
        raise solve_error("minimise", *([status[0], residuals[0]] if batch.single else [status, residuals]))

    tensors, certificates, matrices = program.tensors, point, [active, hessian, jacobian, inverse]
    if not all_solved:
        point, matrices = _replaced(solved, point), _replaced(solved, matrices)
        tensors = _guarded(solved, tensors)
    if optimality is None:
        rule, held = _rule(program, adjoint, matrices)
        point = attach(rule, point, [*tensors, *held])
    else:
        point[0] = _at_root_of(optimality, program, adjoint, point[0], tensors)
    x, y, z = point
    if not all_solved:
        keep = solved.unsqueeze(-1)
        x = torch.where(keep, x, torch.nan)
        y, z = (torch.where(keep, *pair) for pair in zip((y, z), certificates[1:], strict=True))
    results = [x, y, z, status, iterations, residuals]
    if batch.single:
        results = [value.squeeze(0) for value in results]
    x, y, z, *rest = results
    return MinimiseSolution(batch.unravel(x), *program.multipliers(y, z), *rest)


def _search(program: Program, solver: SmoothInteriorPoint, init: Tensor) -> list[Tensor]:
    """What the solver finds, as constants; under transforms, vmap included, it runs below them on one larger batch."""
    capture = transformed()

    def run(count: int, tensors: list[Tensor]) -> Sequence[Tensor]:
        start, *others = tensors
        return solver(
            lambda x: program.values(x, others, capture),
            lambda x: program.values(x, others, capture, first=1),
            start.expand(count, -1),
            program.k,
        )

    if not capture:
        with paused():
            return list(run(len(init), [init, *[t.detach() for t in program.tensors]]))
    kinds: list[torch.dtype] = []

    def floating(count: int, tensors: list[Tensor]) -> list[Tensor]:
        found = run(count, tensors)
        kinds[:] = [value.dtype for value in found]
        return [value.to(init.dtype) for value in found]

    found = opaque(floating, len(init), [init, *program.tensors])
    return [value.to(kind) for value, kind in zip(found, kinds, strict=True)]


def _rule(program: Program, adjoint: Implicit, matrices: list[Tensor]) -> tuple[Rule, list[Tensor]]:
    """The rule for the linear solver that `adjoint` names, or for the inverse at hand; what it takes of `matrices`."""

    def values(x: Tensor, args: Sequence[Tensor]) -> Tensor:
        return program.values(x, args)

    solve = adjoint.linear_solve
    if solve is None:
        return KKTRule(values, program.k, program.differentiable), matrices

    def residual(point: list[Tensor], args: list[Tensor]) -> list[Tensor]:
        return kkt_residual(values, program.k, point, args[:-1], args[-1])

    if isinstance(solve, LinearSolver) and solve.batch_ndim == 0:
        solve = replace(solve, batch_ndim=1)
    return ResidualRule(residual, list, solve, [*program.differentiable, False]), matrices[:1]


def _at_root_of(
    optimality: Function, program: Program, adjoint: Implicit, x: Tensor, tensors: Sequence[Tensor]
) -> Tensor:
    """`x (B, n)` with its derivatives as the root of another residual."""
    batch = program.batch
    fn = on_batch(optimality, batch)
    own = tensors[len(program.captured) :]
    args = batch.rebuild([t if flag else t[0] for t, flag in zip(own, batch.mapped, strict=True)])

    def residual(x: Tensor, *args: Any) -> Tensor:
        image = fn(batch.unravel(x[0] if batch.single else x), *args)
        return tree.ravel(image, 0 if batch.single else 1)[0].reshape(x.shape)

    return differentiate_root("minimise", residual, x, args, {}, adjoint.linear_solve or Auto(batch_ndim=1))


def _guarded(solved: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The arguments without those of failed samples, so that whatever is in them (NaN, say) reaches no gradient."""
    any_solved = solved.any()
    return [
        _replaced(solved, [t])[0] if len(t) == len(solved) else torch.where(any_solved, t, torch.zeros_like(t))
        for t in tensors
    ]


def _replaced(solved: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The rows of failed samples replaced by those of one that was solved, zero if there is none."""
    if solved.shape[0] == 0:
        return list(tensors)
    one = solved.int().argmax().unsqueeze(0)
    replaced = []
    for tensor in tensors:
        keep = solved.reshape(-1, *[1] * (tensor.ndim - 1))
        spare = tensor.detach().index_select(0, one)
        replaced.append(torch.where(keep, tensor, torch.where(solved.any(), spare, torch.zeros_like(spare))))
    return replaced
