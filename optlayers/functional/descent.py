"""Minimization by a solver that follows an objective: its own optimality condition, or another, is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._base import tree
from .._base.loop import Iteration
from .._base.status import Solution
from ..implicit import Adjoint, Implicit, Unroll
from ..implicit.residual import differentiate_root
from ..implicit.tracking import paused
from ..linear_solve import Auto
from ..solvers import Minimiser
from .outcome import Outcome
from .program import Batch, Function


def descend(
    objective: Function, batch: Batch, solver: Minimiser, optimality: Function | None, adjoint: Adjoint, throw: bool
) -> Solution:
    """Run ``solver(objective, init)`` on a batch; differentiate ``x`` as a root of `optimality`, or the solver's."""
    if not isinstance(adjoint, Implicit | Unroll):
        raise ValueError(f"minimise: adjoint is {adjoint!r}; expected ol.Implicit(...) or ol.Unroll(...).")
    solver = solver if batch.single else replace(solver, batch_ndim=1)
    whole = on_batch(objective, batch)
    init = batch.unravel(batch.init[0] if batch.single else batch.init)
    args = batch.rebuild(batch.tensors)
    found = search(lambda x: whole(x, *args), init, solver, adjoint)
    outcome = Outcome("minimise", *found, throw=throw)
    x = outcome.x
    if isinstance(adjoint, Implicit):
        residual = solver.optimality(whole) if optimality is None else on_batch(optimality, batch)
        solve = adjoint.linear_solve or Auto(batch_ndim=solver.batch_ndim)
        x = differentiate_root("minimise", outcome.guard(residual), outcome.where_solved(x, init), args, {}, solve)
    return outcome.solution(x)


def search(
    fn: Callable[[Any], Tensor], init: Any, solver: Minimiser, adjoint: Implicit | Unroll
) -> tuple[Any, Tensor, Tensor, Tensor]:
    """Run a solver, recording what the adjoint differentiates: nothing, its last steps, or all of them."""
    if isinstance(adjoint, Implicit):
        with paused():
            return solver(fn, init)
    if adjoint.steps is None:
        return solver(fn, init)
    last = adjoint.steps
    head = solver
    if solver.steps is not None:
        last = min(last, solver.steps)
        head = replace(solver, steps=solver.steps - last)
    with paused():
        start = head.run(fn, init)
    end = replace(solver, steps=last).run(fn, init, state=tree.map(lambda leaf: leaf.detach(), start.state))
    done, failed = start.done & end.done, start.failed | end.failed
    return solver.outcome(Iteration(end.state, done, failed, start.steps + end.steps, ()), init)


def on_batch(fn: Function, batch: Batch) -> Callable[..., Any]:
    """A function of one sample as one of the batch."""
    if batch.single:
        return fn

    return torch.vmap(fn, in_dims=(0, *batch.axes))
