"""OptLayer on 200 random smooth convex programs of six kinds, beside cvxpy with Clarabel.

Each family is one batch, solved and differentiated at once. The errors are the largest over the batch: of x, to that of
Clarabel refined by SLSQP; of the derivative along a random direction of all arguments, to a central difference,
relative. The last two samples of a family have no feasible point, and must be reported. Times are for the
whole batch, cvxpy's with a new problem for every sample.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from smooth_programs import F64, FAMILIES, Family

import optlayers as ol

STEP = 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200, help="in total, over all families")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    print("| family | programs | solved | infeasible | x error | derivative error | ms | cvxpy ms |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    count = -(-arguments.programs // len(FAMILIES))
    for family in FAMILIES:
        row = compare(family, count)
        print(
            f"| {family.name} | {count} | {row['solved']} | {row['infeasible']} | {row['x_error']:.0e} "
            f"| {row['derivative_error']:.0e} | {row['ms']:.0f} | {row['cvxpy_ms']:.0f} |",
            flush=True,
        )


def compare(family: Family, batch: int, n: int = 6, infeasible: int = 2) -> dict[str, float]:
    """Solve a batch with OptLayer and with cvxpy; return how many were solved and found infeasible, and the errors."""
    args = tuple(arg.requires_grad_() for arg in family.draw(batch, n, infeasible))
    layer = ol.OptLayer(**family.functions(), init=family.init(n), throw=False)
    good = torch.arange(batch) < batch - infeasible
    began = time.perf_counter()
    solution: Any = layer.solve(*args)
    weights = torch.randn(batch, n, dtype=F64)
    grads = torch.autograd.grad((solution.x[good] * weights[good]).sum(), args)
    elapsed = time.perf_counter() - began

    directions = [torch.randn_like(arg) for arg in args]
    products = [(g * d).reshape(batch, -1).sum(-1) for g, d in zip(grads, directions, strict=True)]
    analytic = torch.stack(products).sum(0)[good]
    with torch.no_grad():
        ends = [layer(*[a + s * STEP * d for a, d in zip(args, directions, strict=True)])[good] for s in (1, -1)]
    difference = ((ends[0] - ends[1]) * weights[good]).sum(-1) / (2 * STEP)

    began = time.perf_counter()
    expected = [family.oracle(n, tuple(arg[i] for arg in args)) for i in range(batch)]
    cvxpy_elapsed = time.perf_counter() - began
    pairs = [(x.detach().numpy(), want) for x, want in zip(solution.x, expected, strict=True) if want is not None]
    return {
        "solved": int((solution.status == int(ol.Status.SOLVED)).sum()),
        "infeasible": int((solution.status == int(ol.Status.PRIMAL_INFEASIBLE)).sum()),
        "agreed": len(pairs),
        "x_error": max(float(np.abs(x - want).max()) for x, want in pairs),
        "derivative_error": float(((analytic - difference).abs() / (1 + difference.abs())).max()),
        "iterations": int(solution.iterations.max()),
        "ms": 1e3 * elapsed,
        "cvxpy_ms": 1e3 * cvxpy_elapsed,
    }


if __name__ == "__main__":
    main()
