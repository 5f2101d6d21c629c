"""Problems of the Maros-Meszaros collection, forward and backward: which are solved, how exactly, how fast.

The folder given by --data holds one .mat file a problem: P, q, r, l, u, A, with l <= Ax <= u, the last n rows of A
being bounds on x and 1e20 standing for infinity. A problem is "ok" if the relative KKT residual and the duality gap,
from the data as given, are at most 1e-6, and the gradient is finite.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from runner import environment, limit_threads
from scipy.io import loadmat

import optlayers as ol

DENSE_LIMIT = 1000
TOLERANCE = 1e-6
INFINITE = 1e19  # some files have 1e20 with a rounding error


class Problem(NamedTuple):
    """In the form of solve_qp, with scipy matrices and numpy vectors."""

    Q: sp.csr_array
    p: np.ndarray
    G: sp.csr_array
    h: np.ndarray
    A: sp.csr_array
    b: np.ndarray
    lb: np.ndarray
    ub: np.ndarray


def load(path: Path) -> Problem:
    """Sort rows into equalities, inequalities (both sides of a range) and bounds."""
    content = loadmat(path)
    q, lower, upper = (np.asarray(content[name], float).ravel() for name in ("q", "l", "u"))
    lower, upper = np.where(lower <= -INFINITE, -np.inf, lower), np.where(upper >= INFINITE, np.inf, upper)
    rows, n = sp.csr_array(content["A"], dtype=float), len(q)
    if abs(rows[-n:] - sp.eye_array(n)).max() > 0:
        raise ValueError(f"{path.name}: the last {n} rows of A are not those of the identity")
    rows, (lower, lb), (upper, ub) = rows[:-n], np.split(lower, [-n]), np.split(upper, [-n])
    equal = lower == upper
    above, below = np.flatnonzero(np.isfinite(upper) & ~equal), np.flatnonzero(np.isfinite(lower) & ~equal)
    return Problem(
        sp.csr_array(content["P"], dtype=float),
        q,
        sp.csr_array(sp.vstack([rows[above], -rows[below]])),
        np.concatenate([upper[above], -lower[below]]),
        rows[np.flatnonzero(equal)],
        upper[equal],
        lb,
        ub,
    )


def run(problem: Problem, dense: bool) -> dict[str, Any]:
    """Solve and differentiate once; every argument is a leaf that requires a gradient."""
    leaves = {}
    for name, value in problem._asdict().items():
        if value.size == 0 and name in "GhAb":
            continue
        if sp.issparse(value):
            tensor = torch.from_numpy(value.toarray()) if dense else _sparse_tensor(value)
        else:
            tensor = torch.from_numpy(value.copy())
        leaves[name] = tensor.requires_grad_()
    start = time.perf_counter()
    solution = ol.solve_qp(**leaves, throw=False)
    middle = time.perf_counter()
    weights = torch.linspace(-1, 1, len(problem.p), dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grads = torch.autograd.grad(solution.x @ weights, list(leaves.values()))
    end = time.perf_counter()
    residual, gap = accuracy(problem, solution)
    finite = all(bool(torch.isfinite(_values(grad)).all()) for grad in grads)
    status = ol.Status(int(solution.status)).name
    return {
        "n": len(problem.p),
        "rows": len(problem.h) + len(problem.b),
        "engine": "dense" if dense else "sparse",
        "status": status,
        "iterations": int(solution.iterations),
        "residual": residual,
        "gap": gap,
        "forward_s": middle - start,
        "backward_s": end - middle,
        "differentiable": not caught,
        "ok": bool(status == "SOLVED" and residual <= TOLERANCE and gap <= TOLERANCE and finite),
    }


def accuracy(problem: Problem, solution: ol.QPSolution) -> tuple[float, float]:
    """Largest relative violation of feasibility, stationarity and sign, and the relative duality gap."""
    Q, p, G, h, A, b, lb, ub = problem
    x, y, z, z_lb, z_ub = (value.detach().numpy() for value in solution[:5])
    if not np.isfinite(x).all():
        return np.inf, np.inf
    y, z = (value if value.size else np.zeros(rows) for value, rows in ((y, len(b)), (z, len(h))))
    low, high = np.isfinite(lb), np.isfinite(ub)
    violation = np.concatenate([G @ x - h, np.abs(A @ x - b), (lb - x)[low], (x - ub)[high], [0.0]]).max()
    primal = violation / (1 + max(np.abs(v).max(initial=0) for v in (G @ x, A @ x, h, b, x)))
    Qx, forces = Q @ x, G.T @ z + A.T @ y - z_lb + z_ub
    dual = np.abs(Qx + p + forces).max() / (1 + max(np.abs(v).max() for v in (Qx, p, forces)))
    multipliers = np.concatenate([z, z_lb, z_ub])
    sign = np.maximum(-multipliers, 0).max(initial=0) / (1 + np.abs(multipliers).max(initial=0))
    support = h @ z + b @ y - lb[low] @ z_lb[low] + ub[high] @ z_ub[high]
    gap = abs(x @ Qx + p @ x + support) / (1 + max(abs(x @ Qx), abs(p @ x), abs(support)))
    return float(max(primal, dual, sign)), float(gap)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="folder of the .mat files")
    parser.add_argument("--engine", choices=["auto", "dense", "sparse"], default="auto")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these problems only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures as JSON")
    arguments = parser.parse_args()
    limit_threads(arguments.threads)

    print(f"auto: the dense engine up to {DENSE_LIMIT} variables and rows (bounds not counted). Seconds, cold, once.\n")
    print("| problem | n | rows | engine | status | steps | residual | gap | forward | backward | |")
    print("|---|--:|--:|---|---|--:|--:|--:|--:|--:|---|")
    results = {}
    for path in sorted(arguments.data.glob("*.mat")):
        if arguments.only and path.stem not in arguments.only:
            continue
        problem = load(path)
        small = max(len(problem.p), len(problem.h) + len(problem.b)) <= DENSE_LIMIT
        dense = arguments.engine == "dense" or (arguments.engine == "auto" and small)
        row = results[path.stem] = run(problem, dense)
        verdict = ("ok" if row["ok"] else "FAILS") + ("" if row["differentiable"] else ", singular")
        print(
            f"| {path.stem} | {row['n']} | {row['rows']} | {row['engine']} | {row['status']} | {row['iterations']} "
            f"| {row['residual']:.0e} | {row['gap']:.0e} | {row['forward_s']:.3f} | {row['backward_s']:.3f} "
            f"| {verdict} |",
            flush=True,
        )
    solved = sum(row["ok"] for row in results.values())
    print(f"\n{solved} of {len(results)} solved and differentiated to {TOLERANCE:.0e}.")
    if arguments.json:
        content = {**environment(["torch", "optlayers", "clarabel"]), "results": results}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def _sparse_tensor(matrix: sp.csr_array) -> torch.Tensor:
    index, columns = (torch.from_numpy(array.astype(np.int64)) for array in (matrix.indptr, matrix.indices))
    return torch.sparse_csr_tensor(index, columns, torch.from_numpy(matrix.data.copy()), matrix.shape)


def _values(gradient: torch.Tensor) -> torch.Tensor:
    return gradient if gradient.layout == torch.strided else gradient.values()


if __name__ == "__main__":
    main()
