"""Sparse QPs, forward and backward: projections on the simplex up to n = 1e5, random programs beside dense ones.

Each line is one program, float64, the median of some repetitions. The error of a projection is that against sorting; of
a random program, against the dense engine: x and the gradient with respect to p, in max-norm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from runner import Case, environment, limit_threads, measure

import optlayers as ol

Arguments = Mapping[str, Any]  # of solve_qp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simplex", nargs="*", type=int, default=[1000, 10_000, 100_000], help="numbers of variables")
    parser.add_argument("--random", nargs="*", type=int, default=[100, 300, 1000], help="numbers of variables")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures as JSON")
    arguments = parser.parse_args()
    limit_threads(arguments.threads)

    results = []
    print("| program | n | forward ms | backward ms | dense ms | x error | gradient error |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for program, sizes in ((simplex, arguments.simplex), (random_sparse, arguments.random)):
        for n in sizes:
            row = {"program": program.__name__, "n": n, **run(program(n), arguments.repeats)}
            results.append(row)
            dense = "-" if row["dense_ms"] is None else f"{row['dense_ms']:.1f}"
            print(
                f"| {row['program']} | {n} | {row['forward_ms']:.1f} | {row['backward_ms']:.1f} | {dense} "
                f"| {row['x_error']:.0e} | {row['gradient_error']:.0e} |",
                flush=True,
            )
    if arguments.json:
        content = {**environment(["torch", "optlayers", "clarabel"]), "results": results}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def simplex(n: int) -> Arguments:
    """Projection of a normal point on the simplex: one dense equality row."""
    point = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    row = sp.csr_array(np.ones((1, n)))
    return {"Q": _tensor(sp.eye_array(n)), "p": -point, "A": _tensor(row), "b": torch.ones(1).double(),
            "lb": torch.zeros(n).double()}  # fmt: skip


def random_sparse(n: int) -> Arguments:
    """Three entries a row in a root of Q and in G, feasible at zero."""
    rng = np.random.default_rng(n)
    root, G = (sp.random_array((n, n), density=3 / n, rng=rng, format="csr") for _ in range(2))
    p, h = torch.from_numpy(rng.standard_normal(n)), torch.from_numpy(np.abs(rng.standard_normal(n)))
    return {"Q": _tensor(root @ root.T + 0.1 * sp.eye_array(n)), "p": p, "G": _tensor(G), "h": h}


def run(arguments: Arguments, repeats: int) -> dict[str, Any]:
    """Time the sparse path, and the dense engine up to 1000 variables; compare with what is exact."""
    small = len(arguments["p"]) <= 1000
    sparse, weights = _case(arguments)
    cases = {"sparse": sparse}
    if small:
        cases["dense"], _ = _case({name: _dense(value) for name, value in arguments.items()})
    times = measure(cases, repeats)
    x = sparse.forward().x
    gradient = sparse.backward(sparse.forward())
    if "A" in arguments:
        want, want_gradient = _projection(-arguments["p"], weights)
    else:
        want = cases["dense"].forward().x if small else torch.full_like(x, torch.nan)
        want_gradient = cases["dense"].backward(cases["dense"].forward()) if small else want
    return {
        "forward_ms": times["sparse"].forward,
        "backward_ms": times["sparse"].backward,
        "dense_ms": times["dense"].total if small else None,
        "x_error": (x - want).abs().max().item(),
        "gradient_error": (gradient - want_gradient).abs().max().item(),
    }


def _case(arguments: Arguments) -> tuple[Case, torch.Tensor]:
    """Every argument is a leaf that requires a gradient; backward returns that of p."""
    leaves = {name: value.clone().requires_grad_() for name, value in arguments.items()}
    weights = torch.linspace(-1, 1, len(leaves["p"]), dtype=torch.float64)

    def backward(solution: ol.QPSolution) -> torch.Tensor:
        grads = torch.autograd.grad(solution.x @ weights, list(leaves.values()))
        return grads[list(leaves).index("p")]

    return Case(lambda: ol.solve_qp(**leaves), backward), weights


def _projection(point: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The projection on the simplex by sorting, and the gradient of its product with `weights` in -point."""
    ordered = point.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(point) + 1)
    threshold = excess[ordered > excess][-1]
    support = point > threshold
    return (point - threshold).clamp(min=0), torch.where(support, weights[support].mean() - weights, 0.0)


def _tensor(matrix: Any) -> torch.Tensor:
    csr: Any = sp.csr_array(matrix)
    index, columns = (torch.from_numpy(array.astype(np.int64)) for array in (csr.indptr, csr.indices))
    return torch.sparse_csr_tensor(index, columns, torch.from_numpy(csr.data), csr.shape)


def _dense(value: torch.Tensor) -> torch.Tensor:
    return value.to_dense() if value.layout != torch.strided else value


if __name__ == "__main__":
    main()
