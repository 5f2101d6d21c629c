"""A cvxpy problem as a module: parameters in, variables out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._base.checks import broadcast_batch, check_shape, check_tensors
from .._base.loop import can_read
from .._base.status import Status, solve_error
from ..functional.cone import solve_values
from ..functional.cone_data import Structure
from ..solvers import SCS, Clarabel
from ..solvers.conic import ConeSolver
from .canonical import Block, Canonical, Recovery, canonicalize
from .quadratic import quadratic_program

SOLVERS = {"CLARABEL": Clarabel(), "SCS": SCS(), "DIFFCP": None}
LEAST_EPS = 1e-9  # solutions are refined to rounding in any case
# What cvxpylayers' users pass to its solvers and derivatives, and what has no counterpart here.
IGNORED = frozenset(
    "acceleration_lookback acceleration_interval alpha mode n_jobs_backward n_jobs_forward normalize rho_x scale "
    "solve_method use_indirect verbose warm_starts".split()
)


class CvxpySolution(NamedTuple):
    """What :meth:`CvxpyLayer.solve` returns.

    Attributes:
        variables: the values of the variables, ``(batch, *shape)`` each; no batch dimension if no parameter had one.
        status: ``(batch)`` int64, one :class:`~optlayers.Status` per sample.
        iterations: ``(batch)`` int64.
        residuals: ``(batch, r)`` relative residuals.
    """

    variables: tuple[Tensor, ...]
    status: Tensor
    iterations: Tensor
    residuals: Tensor


class CvxpyLayer(nn.Module):
    r"""A layer that solves a parametrized cvxpy problem, a batch at a time.

    The problem is canonicalized once. Its data are then affine in the parameters, and a call applies one sparse product
    to the batch and solves: by :func:`~optlayers.solve_qp` if the problem is a quadratic program, else by
    :func:`~optlayers.solve_cone`. Derivatives are those of the two, exact, of any order, in all parameters and for all
    variables. ``quad_form(x, P)`` with a parameter ``P`` in the objective stays quadratic.

    Args:
        problem: a cvxpy ``Problem`` that is DPP, or a geometric program with ``gp=True``.
        parameters: its parameters, in the order in which tensors will come.
        variables: those of its variables to return; dual variables of its constraints
            (``constraint.dual_variables[0]``) may be among them.
        solver: :class:`~optlayers.Clarabel`, :class:`~optlayers.SCS`, or one of their names in capitals, as in cvxpy;
            the problem is then solved as a cone program. None: the one for quadratic programs, or Clarabel.
        gp: the problem is a geometric program; it is solved in the logarithms.
        verbose: cvxpy prints what it does to canonicalize.
        solver_args: ``eps`` and ``max_iters`` replace the fields of a cone solver. Those known from cvxpylayers that
            have no counterpart, such as ``mode`` and ``acceleration_lookback``, are ignored.
        throw: raise :class:`~optlayers.SolveError` if a sample fails; otherwise it is NaN, with zero gradient.

    Raises:
        ImportError: cvxpy is not installed.
        ValueError: the problem is not DPP; parameters that are not exactly the problem's; variables that are not its.

    Example::

        x, A, b = cp.Variable(2), cp.Parameter((3, 2)), cp.Parameter(3)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0])
        layer = ol.CvxpyLayer(problem, parameters=[A, b], variables=[x])
        (x_value,) = layer(torch.randn(16, 3, 2), torch.randn(3))

    References: Agrawal et al., "Differentiable convex optimization layers" (2019).
    """

    def __init__(
        self,
        problem: Any,
        parameters: Sequence[Any],
        variables: Sequence[Any],
        solver: ConeSolver | str | None = None,
        gp: bool = False,
        verbose: bool = False,
        solver_args: dict[str, Any] | None = None,
        *,
        throw: bool = True,
    ):
        super().__init__()
        if isinstance(solver, str) and solver not in SOLVERS:
            raise ValueError(
                f"CvxpyLayer: solver is {solver!r}; expected ol.Clarabel(...), ol.SCS(...), 'CLARABEL' or 'SCS'."
            )
        chosen = SOLVERS[solver] if isinstance(solver, str) else solver
        self.solver = adjusted(chosen or Clarabel(), solver_args)
        self.throw = throw
        self.program: Canonical = canonicalize(problem, parameters, variables, gp, verbose)
        self.structure = Structure(self.program.cones, self.program.on_P, self.program.on_A)
        self.quadratic = quadratic_program(self.program) if chosen is None else None

    def forward(
        self, *params: Tensor, solver_args: dict[str, Any] | None = None, warm_start: bool = False
    ) -> tuple[Tensor, ...]:
        """The values of the variables.

        Args:
            params: a tensor for each parameter: of its shape, or with one batch dimension in front, where size 1 stands
                for any.
            solver_args: as in the constructor, for this call.
            warm_start: without effect: the solvers have no use for a guess.

        Raises:
            ValueError: tensors that do not fit the parameters, or each other.
            SolveError: a sample failed, and ``throw`` is set.
        """
        return self.solve(*params, solver_args=solver_args).variables

    def solve(self, *params: Tensor, solver_args: dict[str, Any] | None = None) -> CvxpySolution:
        """The variables with a status for each sample; takes what :meth:`forward` takes."""
        program = self.program
        batch, dtype, segments = _segments(program, params)
        count = batch.numel()
        data = [_evaluated(block, segments) for block in (program.P, program.q, program.A, program.b)]
        if self.quadratic is not None:
            found = self.quadratic.solve(data, count)
        else:
            solver = adjusted(self.solver, solver_args)
            found = solve_values(self.structure, data, count, solver)
        solved = found.status == int(Status.SOLVED)
        readable = can_read(solved)
        if self.throw and readable and not solved.all():
            raise solve_error("CvxpyLayer", found.status.reshape(batch), found.residuals.reshape(*batch, -1))
        z = found.z
        if not readable or not solved.all():
            z = torch.where(solved.unsqueeze(-1), z, torch.nan)
        solution = {"x": found.x, "z": z}
        variables = tuple(
            _recovered(part, solution[part.source]).to(dtype).reshape((*batch, *part.shape))
            for part in program.recoveries
        )
        residuals = found.residuals.to(dtype).reshape((*batch, found.residuals.shape[-1]))
        return CvxpySolution(variables, found.status.reshape(batch), found.iterations.reshape(batch), residuals)


def _segments(program: Canonical, params: Sequence[Any]) -> tuple[torch.Size, torch.dtype, list[Tensor]]:
    """The batch shape, the dtype to return, and the segments of parameters ``(batch or 1, size)`` in float64."""
    if len(params) != len(program.shapes):
        raise ValueError(
            f"CvxpyLayer: A tensor must be provided for each CVXPY parameter; got {len(params)}, expected "
            f"{len(program.shapes)} ({', '.join(program.names)})."
        )
    named = {f"parameter {name}": value for name, value in zip(program.names, params, strict=True)}
    dtype, _ = check_tensors("CvxpyLayer", named)
    for (name, value), shape in zip(named.items(), program.shapes, strict=True):
        check_shape("CvxpyLayer", name, value, shape)
    own = {name: (value, len(shape)) for (name, value), shape in zip(named.items(), program.shapes, strict=True)}
    for name, (value, dims) in own.items():
        if value.dim() > dims + 1:
            raise ValueError(
                f"CvxpyLayer: {name} has shape {tuple(value.shape)}; expected at most one batch dimension in front of "
                f"{tuple(value.shape[value.dim() - dims :])}."
            )
    batch = broadcast_batch("CvxpyLayer", own)
    flat = []
    for value, shape in zip(params, program.shapes, strict=True):
        leading = value.shape[: value.dim() - len(shape)]
        if leading.numel() != 1:
            value, leading = value.expand(*batch, *shape), batch
        flat.append(value.reshape(leading.numel(), math.prod(shape)).double())
    return batch, dtype, [flat[part.parameter].log() if part.log else flat[part.parameter] for part in program.segments]


def _evaluated(block: Block, segments: Sequence[Tensor]) -> Tensor:
    """The entries of a block, ``(batch or 1, size)``: it has the batch only if a parameter that enters has."""
    total = torch.from_numpy(block.constant).unsqueeze(0)
    if segments:
        total = total.to(segments[0].device)
    for number, map_ in block.maps:
        total = total + map_(segments[number])
    return total


def _recovered(part: Recovery, solution: Tensor) -> Tensor:
    index, scale = (torch.from_numpy(array).to(solution.device) for array in (part.index, part.scale))
    value = solution[..., index] * scale
    return value.exp() if part.exp else value


def adjusted(solver: ConeSolver, solver_args: dict[str, Any] | None) -> ConeSolver:
    changes = {}
    for name, value in (solver_args or {}).items():
        if name == "eps":
            changes["eps"] = max(float(value), LEAST_EPS)
        elif name == "max_iters":
            changes["max_steps"] = int(value)
        elif name not in IGNORED:
            raise TypeError(
                f"CvxpyLayer: solver_args has {name!r}; expected 'eps' or 'max_iters'. Give options of a solver to the "
                f"solver: solver=ol.Clarabel(...)."
            )
    return replace(solver, **changes) if changes else solver  # pyright: ignore[reportArgumentType]
