"""A cvxpy problem, canonicalized once: data of a cone program as sparse maps of the parameters, and the way back."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .._base.pattern import Pattern, SparseArray
from .._base.sparse_map import SparseMap
from ..solvers import Cones


class Block(NamedTuple):
    """Entries of the data as ``constant + sum of map(parameter)``, over segments of the list of parameters."""

    constant: np.ndarray
    maps: tuple[tuple[int, SparseMap], ...]


class Segment(NamedTuple):
    """A parameter as the program sees it: which one, where it starts, and whether its logarithm enters."""

    parameter: int
    start: int
    log: bool


class Recovery(NamedTuple):
    """A variable as ``scale * solution[index]``, row by row, of the solution named: `x` or `z`."""

    source: str
    shape: tuple[int, ...]
    index: np.ndarray
    scale: np.ndarray
    exp: bool


class Canonical(NamedTuple):
    """All that a layer needs; no object of cvxpy is kept.

    ``min x'Px/2 + q'x  s.t.  Ax + s = b, s in K``, with the entries of ``P`` and ``A`` on patterns.
    """

    cones: Cones
    on_P: Pattern
    on_A: Pattern
    P: Block
    q: Block
    A: Block
    b: Block
    segments: tuple[Segment, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the parameters
    names: tuple[str, ...]
    recoveries: tuple[Recovery, ...]


def canonicalize(
    problem: Any, parameters: Sequence[Any], variables: Sequence[Any], gp: bool, verbose: bool
) -> Canonical:
    """Canonicalize a cvxpy problem for parameters that come later.

    Raises:
        ValueError: a problem that is not DPP; parameters that are not the problem's; variables that are neither of the
            problem nor dual variables of its constraints.
    """
    cp = _import_cvxpy()
    _check(problem, parameters, variables, gp)
    scopes = importlib.import_module("cvxpy.utilities.scopes")
    with contextlib.nullcontext() if gp else scopes.quad_form_dpp_scope():
        data, chain, inverse = problem.get_problem_data(
            solver=_target(cp), gp=gp, verbose=verbose, solver_opts={}, ignore_dpp=False
        )
    program = data["param_prob"]
    columns, segments = _columns(chain, program, parameters)
    n = int(program.x.size)
    rows = int(sum(constraint.size for constraint in program.constraints))

    on_P, P = _objective(program, n)
    on_A, A, b = _constraints(program, n, rows)
    q: SparseArray = sp.csr_array(program.q)[:n]
    return Canonical(
        cones_of(data["dims"]),
        on_P,
        on_A,
        *(_block(part @ columns, segments) for part in (P, q, A, b)),
        segments=segments,
        shapes=tuple(tuple(parameter.shape) for parameter in parameters),
        names=tuple(parameter.name() for parameter in parameters),
        recoveries=tuple(_recoveries(problem, variables, program, chain, inverse, gp)),
    )


def _import_cvxpy() -> Any:
    try:
        return importlib.import_module("cvxpy")
    except ImportError as error:
        raise ImportError("ol.CvxpyLayer needs the package cvxpy: pip install optlayers[cvxpy].") from error


def _target(cp: Any) -> Any:
    """What cvxpy is to canonicalize for: quadratic objectives, all cones of :class:`Cones`, in the order of those."""
    clarabel = importlib.import_module("cvxpy.reductions.solvers.conic_solvers.clarabel_conif").CLARABEL

    class OptLayers(clarabel):
        # Power cones of several variables are split by cvxpy.
        SUPPORTED_CONSTRAINTS = [c for c in clarabel.SUPPORTED_CONSTRAINTS if c is not cp.constraints.PowConeND]  # noqa: RUF012

        def name(self):
            return "OPTLAYERS"

        def import_solver(self):
            """No package of a solver is needed to canonicalize."""

    return OptLayers()


def _check(problem: Any, parameters: Sequence[Any], variables: Sequence[Any], gp: bool) -> None:
    if not isinstance(parameters, list | tuple) or not isinstance(variables, list | tuple):
        raise ValueError("CvxpyLayer: parameters and variables must be lists or tuples.")
    if not (problem.is_dpp("dgp") if gp else problem.is_dpp(quad_form_dpp="qp")):
        kind, test = ("geometric program", "is_dgp(dpp=True)") if gp else ("program", "is_dcp(dpp=True)")
        hint = "" if gp or not problem.is_dgp(dpp=True) else " It is a geometric program: pass gp=True."
        raise ValueError(
            f"CvxpyLayer: problem must be DPP (a disciplined parametrized {kind}, see problem.{test}): products of "
            f"parameters, or of a parameter and an expression that is not affine in the variables, are not; nor is "
            f"quad_form(x, P) with a parameter P in a constraint. Give such a product a parameter of its own.{hint}"
        )
    if {p.id for p in problem.parameters()} != {p.id for p in parameters} or len(parameters) != len(
        {p.id for p in parameters}
    ):
        wanted, got = ([p.name() for p in part] for part in (problem.parameters(), parameters))
        raise ValueError(
            f"CvxpyLayer: parameters are {got}; they must exactly match problem.parameters(), which are {wanted}."
        )
    known = {v.id for v in problem.variables()}
    known |= {dual.id for constraint in problem.constraints for dual in constraint.dual_variables}
    for variable in variables:
        if variable.id not in known:
            raise ValueError(
                f"CvxpyLayer: variable {variable.name()} is neither in problem.variables() nor a dual variable of one "
                f"of problem.constraints."
            )
        if variable.is_complex():
            raise ValueError(f"CvxpyLayer: variable {variable.name()} is complex; only real ones are supported.")
    for parameter in parameters:
        if parameter.is_complex():
            raise ValueError(f"CvxpyLayer: parameter {parameter.name()} is complex; only real ones are supported.")
    if problem.is_mixed_integer():
        raise ValueError("CvxpyLayer: problem has integer variables; a solution that jumps has no derivative.")


def cones_of(dims: Any) -> Cones:
    """cvxpy's ``ConeDims`` as ours."""
    if dims.pnd:
        raise ValueError("CvxpyLayer: power cones of more than three dimensions are not supported.")
    return Cones(dims.zero, dims.nonneg, tuple(dims.soc), tuple(dims.psd), dims.exp, tuple(float(a) for a in dims.p3d))


def _columns(chain: Any, program: Any, parameters: Sequence[Any]) -> tuple[SparseArray, tuple[Segment, ...]]:
    """From the list of parameters (each row by row, a logarithm as a segment of its own, a one last) to cvxpy's.

    The matrix also averages the two halves of symmetric parameters, of which cvxpy takes one.
    """
    logarithms = _logarithms(chain)
    renamed = chain.compose_param_id_map()
    segments: list[Segment] = []
    places, sources, weights, start = [], [], [], 0
    for number, parameter in enumerate(parameters):
        for identity in {parameter.id, *renamed.get(parameter.id, [])} & program.param_id_to_col.keys():
            halves, weight = _reduced(parameter)
            for half in halves:
                places.append(program.param_id_to_col[identity] + np.arange(len(half)))
                sources.append(start + half)
                weights.append(np.full(len(half), weight))
            segments.append(Segment(number, start, identity in logarithms))
            start += math.prod(parameter.shape)
    total = int(program.total_param_size)
    index = np.concatenate([[total], *places]), np.concatenate([[start], *sources])
    matrix = sp.csr_array((np.concatenate([[1.0], *weights]), index), shape=(total + 1, start + 1))
    return matrix, tuple(segments)


def _logarithms(chain: Any) -> set[int]:
    """Ids of the parameters by which a geometric program in logarithms replaces its own."""
    found = set()
    for reduction in chain.reductions:
        if type(reduction).__name__ == "Dgp2Dcp":
            found.update(i for ids in reduction.param_id_map.values() for i in ids)
    return found


def _block(entries: SparseArray, segments: Sequence[Segment]) -> Block:
    """Entries in terms of our list of parameters, segment by segment."""
    entries = sp.csc_array(entries)
    starts = [*(segment.start for segment in segments), entries.shape[1] - 1]
    maps = []
    for number, ends in enumerate(itertools.pairwise(starts)):
        part = entries[:, slice(*ends)]
        if part.nnz:
            maps.append((number, SparseMap(part)))
    return Block(entries[:, [-1]].toarray().ravel(), tuple(maps))


def _reduced(leaf: Any) -> tuple[list[np.ndarray], float]:
    """The places, row by row, of what cvxpy keeps of a parameter or variable, to be summed with a weight."""
    place = np.arange(math.prod(leaf.shape)).reshape(leaf.shape)
    if _symmetric(leaf):
        upper = np.triu_indices(leaf.shape[-1])
        return [place[upper], place.T[upper]], 0.5
    if leaf.attributes["diag"]:
        return [np.diag(place)], 1.0
    if leaf.sparse_idx is not None:
        return [place[leaf.sparse_idx]], 1.0
    return [place.ravel(order="F")], 1.0


def _symmetric(leaf: Any) -> bool:
    return any(leaf.attributes[name] for name in ("symmetric", "PSD", "NSD"))


def _objective(program: Any, n: int) -> tuple[Pattern, SparseArray]:
    program.reduced_P.cache()
    reduced = program.reduced_P
    width = program.total_param_size + 1
    if reduced.reduced_mat is None or reduced.problem_data_index is None:
        return Pattern(np.zeros(0, int), np.zeros(0, int), (n, n)), sp.csr_array((0, width))
    rows, starts, _ = reduced.problem_data_index
    cols = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return Pattern(rows.astype(np.int64), cols, (n, n)), sp.csr_array(reduced.reduced_mat)


def _constraints(program: Any, n: int, m: int) -> tuple[Pattern, SparseArray, SparseArray]:
    """cvxpy says ``Ax + b in K``: our ``A`` is minus its."""
    program.reduced_A.cache()
    reduced = program.reduced_A
    width = program.total_param_size + 1
    if m == 0:
        return Pattern(np.zeros(0, int), np.zeros(0, int), (0, n)), sp.csr_array((0, width)), sp.csr_array((0, width))
    rows, starts, _ = reduced.problem_data_index
    entries: SparseArray = sp.csr_array(reduced.reduced_mat)
    split = int(starts[n])
    cols = np.repeat(np.arange(n), np.diff(starts[: n + 1]))
    place = sp.csr_array(
        (np.ones(len(rows) - split), (rows[split:], np.arange(len(rows) - split))), shape=(m, len(rows) - split)
    )
    return Pattern(rows[:split].astype(np.int64), cols, (m, n)), -entries[:split], place @ entries[split:]


def _recoveries(
    problem: Any, variables: Sequence[Any], program: Any, chain: Any, inverse: Any, gp: bool
) -> Iterator[Recovery]:
    renamed = chain.compose_var_id_map()
    constraints = {dual.id: constraint for constraint in problem.constraints for dual in constraint.dual_variables}
    invert = _Inverse(program, chain, inverse)
    for variable in variables:
        shape = tuple(variable.shape)
        if variable.id in constraints:
            index, scale = invert.dual(constraints[variable.id], variable)
            yield Recovery("z", shape, index, scale, exp=False)
        else:
            start = program.var_id_to_col[renamed.get(variable.id, [variable.id])[0]]
            index, scale = np.zeros(math.prod(shape), int), np.zeros(math.prod(shape))
            for half in _reduced(variable)[0]:
                index[half], scale[half] = start + np.arange(len(half)), 1.0
            yield Recovery("x", shape, index, scale, exp=gp)


class _Inverse:
    """Finds the entries of dual variables among the multipliers, by passing known multipliers back through cvxpy."""

    def __init__(self, program: Any, chain: Any, inverse: Any):
        self.program, self.chain, self.inverse = program, chain, inverse
        self.solutions: list[tuple[np.ndarray, dict[int, Any]]] = []

    def dual(self, constraint: Any, dual: Any) -> tuple[np.ndarray, np.ndarray]:
        before = [variable.value for variable in constraint.dual_variables]
        (ones, ramp, other), z = self._values(constraint, dual)
        for variable, value in zip(constraint.dual_variables, before, strict=True):
            variable.save_value(value)
        index = np.rint(ramp / np.where(ones == 0, 1.0, ones)).astype(int) - 1
        if not np.allclose(other, ones * z[index]):
            raise ValueError(
                f"CvxpyLayer: the dual variable {dual.name()} of {constraint} is no rearrangement of the multipliers "
                f"of the cone program, so that it cannot be an output. State the constraint as a cone."
            )
        return index, ones

    def _values(self, constraint: Any, dual: Any) -> tuple[list[np.ndarray], np.ndarray]:
        values = []
        for _, duals in self._probes():
            if constraint.id not in duals:
                raise ValueError(f"CvxpyLayer: cvxpy has no dual variable for {constraint}; it cannot be an output.")
            constraint.save_dual_value(duals[constraint.id])
            values.append(np.asarray(dual.value, dtype=float).ravel())
        return values, self.solutions[-1][0]

    def _probes(self) -> list[tuple[np.ndarray, dict[int, Any]]]:
        """What cvxpy makes of multipliers that are ones, that are numbered, and that are neither."""
        if not self.solutions:
            n, m = int(self.program.x.size), sum(constraint.size for constraint in self.program.constraints)
            number = np.arange(1.0, m + 1)
            for z in (np.ones(m), number, np.cos(number)):
                answer = SimpleNamespace(
                    status="Solved", x=np.zeros(n), s=np.zeros(m), z=z, obj_val=0.0, solve_time=0.0, iterations=0
                )
                self.solutions.append((z, self.chain.invert(answer, self.inverse).dual_vars))
        return self.solutions
