"""Minimization by a solver that follows an objective: its own optimality condition, or another, is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from .._base.status import Solution
from ..implicit import Adjoint, Implicit, Unroll
from ..implicit.residual import differentiate_root
from ..implicit.tracking import paused
from ..linear_solve import Auto
from .outcome import Outcome
from .program import Batch, Function


def descend(
    objective: Function, batch: Batch, solver: Any, optimality: Function | None, adjoint: Adjoint, throw: bool
) -> Solution:
    """Run ``solver(objective, init)`` on a batch; differentiate ``x`` as a root of `optimality`, or the solver's."""
    if not isinstance(adjoint, Implicit) and adjoint != Unroll():
        raise ValueError(f"minimise: adjoint is {adjoint!r}; expected ol.Implicit(...) or ol.Unroll().")
    solver = solver if batch.single else replace(solver, batch_ndim=1)
    whole = on_batch(objective, batch)
    init = batch.unravel(batch.init[0] if batch.single else batch.init)
    args = batch.rebuild(batch.tensors)
    implicit = isinstance(adjoint, Implicit)
    with paused() if implicit else nullcontext():
        found = solver(lambda x: whole(x, *args), init)
    outcome = Outcome("minimise", *found, throw=throw)
    x = outcome.x
    if implicit:
        residual = solver.optimality(whole) if optimality is None else on_batch(optimality, batch)
        solve = adjoint.linear_solve or Auto(batch_ndim=solver.batch_ndim)
        x = differentiate_root("minimise", outcome.guard(residual), outcome.where_solved(x, init), args, {}, solve)
    return outcome.solution(x)


def on_batch(fn: Function, batch: Batch) -> Callable[..., Any]:
    """A function of one sample as one of the batch."""
    if batch.single:
        return fn

    return torch.vmap(fn, in_dims=(0, *batch.axes))
