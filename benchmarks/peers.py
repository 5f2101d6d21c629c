"""This library and its peers behind one face: each contestant turns a `Problem` into a `Case` that can be timed.

Inputs are leaves that all require a gradient, prepared outside the timed calls. A package that is not installed makes
its constructor raise ImportError.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy
import torch
from reference import Point, Problem
from runner import Case, torch_threads
from torch import Tensor

import optlayers as ol


class Contestant(NamedTuple):
    """How to set up a solver, and how to read what its forward and backward return."""

    settings: str
    prepare: Callable[[Problem, Tensor], Case]  # the upstream gradient of x is fixed
    point: Callable[[Any], Point]  # of what Case.forward returned
    gradient: Callable[[Any, Problem], Problem]  # of what Case.backward returned


def ours(threads: int) -> Contestant:
    """This library."""

    def point(leaves: Sequence[Tensor]) -> Point:
        solution = solve(leaves)
        return Point(solution.x, solution.y, solution.z)

    return _torch_contestant("solve_qp(throw=False)", point)


def solve(data: Sequence[Tensor]) -> ol.QPSolution:
    """`solve_qp` as a user calls it, who does not pass empty constraints."""
    Q, p, G, h, A, b = data
    return ol.solve_qp(Q, p, G, h, *((A, b) if A.shape[-2] else ()), throw=False)


def qpth(threads: int) -> Contestant:
    """OptNet's solver (Amos and Kolter, 2017): a batched interior point in torch."""
    function = import_module("qpth.qp").QPFunction(eps=1e-10, verbose=-1, maxIter=30, check_Q_spd=False)

    def solve(leaves: Sequence[Tensor]) -> Point:
        *others, A, b = leaves
        x = function(*others, *((A, b) if A.shape[-2] else (A.new_empty(0), A.new_empty(0))))
        context = x.grad_fn  # qpth returns x alone; its backward keeps the multipliers
        return Point(x, context.nus if A.shape[-2] else b, context.lams)

    contestant = _torch_contestant("eps=1e-10, maxIter=30, check_Q_spd=False; one thread above n = 128", solve)

    def prepare(problem: Problem, cotangent: Tensor) -> Case:
        case = contestant.prepare(problem, cotangent)
        count = threads if max(problem.Q.shape[-1], problem.G.shape[-2]) <= 128 else 1  # see torch_threads

        def forward() -> Point:
            with torch_threads(count):
                return case.forward()

        def backward(point: Point) -> Any:
            with torch_threads(count):
                return case.backward(point)

        return Case(forward, backward)

    return contestant._replace(prepare=prepare)


def proxsuite(threads: int) -> Contestant:
    """QPLayer (Bambade et al., 2024): augmented Lagrangians, a C++ solver called once a sample."""
    layer = import_module("proxsuite.torch.qplayer")
    vars(layer)["os"] = SimpleNamespace(cpu_count=lambda: 2 * threads)  # it uses half of the processors it sees
    function = layer.QPFunction(eps=1e-9, omp_parallel=True)

    def solve(leaves: Sequence[Tensor]) -> Point:
        Q, p, G, h, A, b = leaves
        return Point(*function(Q, p, A, b, G, torch.full_like(h, -1e20), h))

    return _torch_contestant(f"eps=1e-9, omp_parallel=True on {threads} threads", solve)


def moreau(threads: int) -> Contestant:
    """Moreau: a batched conic solver in Rust; for small QPs its automatic choice is an active-set method."""
    module, layer = import_module("moreau"), import_module("moreau.torch")
    solvers: dict[tuple[int, ...], Any] = {}  # one for each size, since it fixes the sparsity pattern

    def dense_pattern(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        return torch.arange(0, rows * columns + 1, columns), torch.arange(columns).repeat(rows)

    def solve(leaves: Sequence[Tensor]) -> Point:
        Q, p, G, h, A, b = leaves
        batch, n, m, equalities = len(Q), Q.shape[-1], G.shape[-2], A.shape[-2]
        size = (batch, n, m, equalities)
        if size not in solvers:
            cones = module.Cones(num_zero_cones=equalities, num_nonneg_cones=m)
            patterns = (*dense_pattern(n, n), *dense_pattern(m + equalities, n))
            settings = module.Settings(device="cpu", batch_size=batch)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it tells that it chose the active-set method
                solvers[size] = layer.Solver(n, m + equalities, *patterns, cones=cones, settings=settings)
        rows, bounds = torch.cat([A, G], dim=1), torch.cat([b, h], dim=1)
        solution = solvers[size].solve(Q.reshape(batch, -1), rows.reshape(batch, -1), p, bounds)
        return Point(solution.x, *solution.z.tensor_split([equalities], dim=-1))

    return _torch_contestant("defaults: active set up to n = 500, else interior point", solve)


def qpax(threads: int) -> Contestant:
    """qpax (Tracy and Manchester, 2024): an interior point in JAX, compiled over the batch."""
    jax, package = import_module("jax"), import_module("qpax")
    jax.config.update("jax_enable_x64", True)
    # Not the default backend "e": it cannot reach 1e-8 (slacks have a floor), and its gradient in G is wrong.
    settings = {"backend": "i", "solver_tol": 1e-8}

    def primal(Q, p, G, h, A, b):
        return package.solve_qp_primal(Q, p, A, b, G, h, target_kappa=1e-8, **settings)

    @jax.jit
    def all_variables(Q, p, G, h, A, b):
        x, _, z, y, *_ = jax.vmap(lambda *data: package.solve_qp(*data, **settings))(Q, p, A, b, G, h)
        return x, y, z

    forward = jax.jit(lambda *data: jax.vjp(jax.vmap(primal), *data))
    backward = jax.jit(lambda pullback, cotangent: pullback(cotangent))

    def prepare(problem: Problem, cotangent: Tensor) -> Case:
        data = [jax.numpy.asarray(array.numpy()) for array in problem]
        upstream = jax.numpy.asarray(cotangent.numpy())
        return Case(
            lambda: jax.block_until_ready((*forward(*data), data)),
            lambda state: jax.block_until_ready(backward(state[1], upstream)),
        )

    def to_torch(arrays: Sequence[Any]) -> list[Tensor]:
        return [torch.from_numpy(numpy.array(array)) for array in arrays]

    return Contestant(
        "backend='i', solver_tol=1e-8, target_kappa=1e-8, under jit and vmap",
        prepare,
        point=lambda state: Point(*to_torch(all_variables(*state[2]))),
        gradient=lambda arrays, _: Problem(*to_torch(arrays)),
    )


PEERS = {"qpth": qpth, "proxsuite": proxsuite, "moreau": moreau, "qpax": qpax}


def _torch_contestant(settings: str, solve: Callable[[Sequence[Tensor]], Point]) -> Contestant:
    def prepare(problem: Problem, cotangent: Tensor) -> Case:
        leaves = [array.clone().requires_grad_() for array in problem]

        def backward(point: Point) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(point.x, leaves, cotangent, allow_unused=True)  # no A and b where they are empty

        return Case(lambda: solve(leaves), backward)

    def gradient(gradients: Sequence[Tensor | None], problem: Problem) -> Problem:
        filled = [
            torch.zeros_like(array) if one is None else one for one, array in zip(gradients, problem, strict=True)
        ]
        return Problem(*filled)

    return Contestant(settings, prepare, lambda point: Point(*(part.detach() for part in point)), gradient)
