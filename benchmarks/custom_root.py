"""The backward of `custom_root` beside TorchOpt's: time, and the error of the gradient of the worst sample.

Ridge regressions, each with its own data, and one tridiagonal system of many unknowns, in float64. The solution is
given, so that the backward is all linear solve. Conjugate gradients of both are run at equal tolerances. TorchOpt's
stops on the residual of the whole batch as one system; ours stops sample by sample.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from report import table
from runner import Case, environment, limit_threads, measure
from torch import Tensor

import optlayers as ol
from optlayers.linear_solve import CG, LU

TOLERANCES = (1e-5, 1e-10)
Solver = Callable[[Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """``residual(x, theta) = 0`` at `x`; the derivative of ``c'x`` in theta is `gradient`."""

    residual: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    theta: Tensor
    c: Tensor
    gradient: Tensor


def ridges(batch: int, n: int) -> Problem:
    """``X'(Xx - y) + theta x = 0``."""
    X, y = torch.randn(batch, n, n) / n**0.5, torch.randn(batch, n, 1)
    theta, c = 0.5 + torch.rand(batch, n), torch.randn(batch, n)
    hessian = X.mT @ X + torch.diag_embed(theta)
    x, u = torch.linalg.solve(hessian, torch.cat([X.mT @ y, c[..., None]], -1)).unbind(-1)

    def residual(x: Tensor, theta: Tensor) -> Tensor:
        return (X.mT @ (X @ x[..., None] - y)).squeeze(-1) + theta * x

    return Problem(residual, x, theta, c, -u * x)


def chain(n: int) -> Problem:
    """``(d + theta) x - (the mean of both neighbours) - b = 0``, around a circle."""
    d, theta, b, c = 1 + 9 * torch.rand(n), torch.rand(n), torch.randn(n), torch.randn(n)

    def image(x: Tensor, theta: Tensor) -> Tensor:
        after, before = torch.cat([x[1:], x[:1]]), torch.cat([x[-1:], x[:-1]])
        return (d + theta) * x - 0.5 * after - 0.5 * before

    x, u = (CG(1e-15, maxiter=100).solve(ol.linear_solve.Operator(lambda v: image(v, theta)), v).x for v in (b, c))
    return Problem(lambda x, theta: image(x, theta) - b, x, theta, c, -u * x)


def contestants(problem: Problem) -> dict[str, Callable[..., Any]]:
    """Name to the solver made differentiable."""
    batch_ndim = problem.x.ndim - 1
    solves: dict[str, ol.linear_solve.LinearSolver] = {
        f"optlayers CG {rtol:.0e}": CG(rtol, batch_ndim=batch_ndim) for rtol in TOLERANCES
    }
    if problem.x.shape[-1] <= 100:
        solves["optlayers LU"] = LU(batch_ndim=batch_ndim)
    made = {name: ol.custom_root(problem.residual, solve=solve) for name, solve in solves.items()}
    try:
        theirs = import_module("torchopt")
    except ImportError:
        return made
    for rtol in TOLERANCES:
        solve = theirs.linear_solve.solve_cg(rtol=rtol)
        made[f"torchopt CG {rtol:.0e}"] = theirs.diff.implicit.custom_root(problem.residual, argnums=1, solve=solve)
    return made


def compare(problem: Problem, repeats: int) -> list[list[str]]:
    """A line for each contestant: milliseconds forward and backward, error of the gradient."""
    cases, errors, init = {}, {}, torch.zeros_like(problem.x)
    for name, decorate in contestants(problem).items():
        solver = decorate(lambda init, theta: problem.x.clone())
        theta = problem.theta.clone().requires_grad_()
        case = Case(
            lambda solver=solver, theta=theta: (solver(init, theta) * problem.c).sum(),
            lambda total, theta=theta: torch.autograd.grad(total, theta)[0],
        )
        error = (case.backward(case.forward()) - problem.gradient).norm(dim=-1) / problem.gradient.norm(dim=-1)
        cases[name], errors[name] = case, error.max().item()
    times = measure(cases, repeats)
    return [[name, f"{t.forward:.2f}", f"{t.backward:.2f}", f"{errors[name]:.0e}"] for name, t in times.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="repetitions of each contestant (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    warnings.simplefilter("ignore", FutureWarning)  # of functorch, in TorchOpt
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    print(environment(["torch", "optlayers", "torchopt"]))
    for title, problem in {"64 systems of 16": ridges(64, 16), "1 system of 10,000": chain(10_000)}.items():
        print(
            f"\n{table([title, 'forward ms', 'backward ms', 'error'], compare(problem, arguments.repeats))}", flush=True
        )


if __name__ == "__main__":
    main()
