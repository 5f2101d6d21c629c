"""CvxpyLayer beside cvxpylayers on the same cvxpy problems: forward and backward, by batch size.

The contestants of cvxpylayers are its default (SCS by diffcp), Clarabel by diffcp, and moreau where it is installed.
Errors are the largest in max-norm, relative to the largest entry: of the variable, and of the gradients of a weighted
sum of it, against the cone path of this library with another solver (SCS, refined), which shares no code with the
one that is timed on quadratic programs.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cvxpy as cp
import torch
from runner import Case, environment, limit_threads, measure
from torch import Tensor

Problem = tuple[Any, list[Any], Any, Callable[[int], list[Tensor]]]  # problem, parameters, variable, batch of values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16, 128])
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures as JSON")
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    warnings.simplefilter("ignore")

    results = []
    print("| problem | batch | layer | forward ms | backward ms | to ours | x error | gradient error |")
    print("|---|--:|---|--:|--:|--:|--:|--:|", flush=True)
    for name in arguments.problems:
        problem, parameters, variable, values = PROBLEMS[name]()
        layers = contestants(problem, parameters, variable)
        for batch in arguments.batches:
            for row in compare(layers, values(batch), arguments.repeats):
                results.append({"problem": name, "batch": batch, **row})
                figures = [f"{row[key]:.1f}" for key in ("forward_ms", "backward_ms", "ratio")]
                figures += [f"{row[key]:.0e}" for key in ("x_error", "gradient_error")]
                print(f"| {name} | {batch} | {row['layer']} | {' | '.join(figures)} |", flush=True)
    if arguments.json:
        packages = ["torch", "optlayers", "cvxpy", "clarabel", "cvxpylayers", "diffcp", "moreau", "scs"]
        arguments.json.write_text(json.dumps({**environment(packages), "results": results}, indent=2) + "\n")


def contestants(problem: Any, parameters: list[Any], variable: Any) -> dict[str, Callable[..., Tensor]]:
    """Functions of the parameters; the first is ours, the last the reference."""
    import optlayers as ol

    solvers = (ol.ConeInteriorPoint(), ol.Clarabel(), ol.SCS())
    ours, clarabel, reference = (ol.CvxpyLayer(problem, parameters, [variable], solver=s) for s in solvers)
    found: dict[str, Callable[..., Tensor]] = {"optlayers": lambda *values: ours(*values)[0]}
    found["optlayers, Clarabel"] = lambda *values: clarabel(*values)[0]
    try:
        CvxpyLayer = import_module("cvxpylayers.torch").CvxpyLayer
    except ImportError:
        print("cvxpylayers is not installed: nothing to compare with")
    else:
        diffcp = CvxpyLayer(problem, parameters, [variable])
        found["diffcp, SCS"] = lambda *values: diffcp(*values)[0]
        found["diffcp, Clarabel"] = lambda *values: diffcp(*values, solver_args={"solve_method": "Clarabel"})[0]
        try:
            moreau = CvxpyLayer(problem, parameters, [variable], solver="MOREAU")
            found["moreau"] = lambda *values: moreau(*values)[0]
        except Exception as error:  # whatever a peer raises, the others are compared
            print(f"moreau: {type(error).__name__}: {error}")
    return {**found, "reference": lambda *values: reference(*values)[0]}


def compare(layers: dict[str, Callable[..., Tensor]], values: list[Tensor], repeats: int) -> list[dict[str, Any]]:
    """A row for each contestant that gets through; what it costs and how far it is from the reference."""
    leaves = [value.requires_grad_() for value in values]
    answers: dict[str, list[Tensor]] = {}
    for name, layer in layers.items():
        try:
            x = layer(*leaves)
            answers[name] = [x.detach(), *torch.autograd.grad((x * weights(x)).sum(), leaves)]
        except Exception as error:  # as above
            print(f"{name}: {type(error).__name__}: {str(error)[:100]}")
    reference = answers.pop("reference")
    cases = {name: Case(lambda layer=layers[name]: layer(*leaves), lambda x: _backward(x, leaves)) for name in answers}
    times = measure(cases, repeats)
    rows = []
    for name, answer in answers.items():
        errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(answer, reference, strict=True)]
        rows.append(
            {
                "layer": name,
                "forward_ms": times[name].forward,
                "backward_ms": times[name].backward,
                "ratio": times[name].total / times["optlayers"].total,
                "x_error": errors[0],
                "gradient_error": max(errors[1:]),
            }
        )
    return rows


def _backward(x: Tensor, leaves: Sequence[Tensor]) -> None:
    torch.autograd.grad((x * weights(x)).sum(), leaves)


def weights(x: Tensor) -> Tensor:
    """The same for all contestants."""
    return torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def box_least_squares(m: int = 40, n: int = 20) -> Problem:
    """A quadratic program."""
    A, b, x = cp.Parameter((m, n)), cp.Parameter(m), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= -0.1, x <= 0.1])
    return problem, [A, b], x, lambda batch: [randn(batch, m, n, seed=1), randn(batch, m, seed=2)]


def robust_portfolio(n: int = 20) -> Problem:
    """Second-order cones: a limit on the risk."""
    mu, root, w = cp.Parameter(n), cp.Parameter((n, n)), cp.Variable(n)
    constraints: list[Any] = [cp.sum(w) == 1, w >= 0, cp.norm(root @ w) <= 0.4]
    problem = cp.Problem(cp.Maximize(mu @ w), constraints)
    eye = torch.eye(n, dtype=torch.float64)
    return problem, [mu, root], w, lambda batch: [randn(batch, n, seed=1), eye + 0.1 * randn(batch, n, n, seed=2)]


def logistic_regression(m: int = 20, n: int = 5) -> Problem:
    """Exponential cones."""
    X, w = cp.Parameter((m, n)), cp.Variable(n)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.logistic(X @ w)) + cp.sum_squares(w)))
    return problem, [X], w, lambda batch: [randn(batch, m, n, seed=1)]


def nearest_correlation(n: int = 6) -> Problem:
    """A semidefinite program."""
    C, X = cp.Parameter((n, n)), cp.Variable((n, n), symmetric=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.diag(X) == 1])
    return problem, [C], X, lambda batch: [randn(batch, n, n, seed=1)]


def sparse_qp(n: int = 1024, density: float = 0.01) -> Problem:
    """After the sparse program of the cvxpylayers paper: the vectors are parameters, the matrices constants."""
    import numpy as np
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    G, A = (sp.random(n, n, density, rng=rng, format="csr") + sp.eye(n, n, format="csr") for _ in range(2))
    A = A[: n // 2]
    q, h, x = cp.Parameter(n), cp.Parameter(n), cp.Variable(n)
    point = rng.standard_normal(n)
    constraints: list[Any] = [G @ x <= h, A @ x == A @ point]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x) + q @ x), constraints)
    room = torch.from_numpy(G @ point)
    return problem, [q, h], x, lambda batch: [randn(batch, n, seed=1), room + randn(batch, n, seed=2).abs()]


def robust_portfolio_large() -> Problem:
    """A canonical size near 1,000: variables and rows together."""
    return robust_portfolio(330)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    problem.__name__: problem
    for problem in (
        box_least_squares,
        robust_portfolio,
        logistic_regression,
        nearest_correlation,
        robust_portfolio_large,
        sparse_qp,
    )
}

if __name__ == "__main__":
    main()
