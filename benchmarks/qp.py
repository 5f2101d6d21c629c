"""Dense batched QPs, forward and backward through autograd: this library beside its peers, accuracy beside speed.

All in one process, float64, warm, the contestants in turns. A peer that is not installed is skipped.
`make bench` runs it with every peer; `make bench ARGS="--sizes 128,10,10,3 --json results.json"` passes options.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peers
import torch
from reference import Point, Problem, cast, gradient_error, kkt_residual, random_problem, solve_exactly
from report import heading, size_table, summary
from runner import environment, limit_threads, matrix_product_rate, measure, peak_memory

SIZES = [(1, 10, 10, 3), (128, 10, 10, 3), (128, 32, 32, 8), (64, 100, 100, 0), (64, 100, 100, 50), (8, 300, 300, 50)]
OURS, SINGLE = "optlayers", "optlayers float32"


def main() -> None:
    arguments = _arguments()
    limit_threads(arguments.threads)
    contestants = {OURS: peers.ours(arguments.threads)}
    for name, construct in peers.PEERS.items():
        try:
            contestants[name] = construct(arguments.threads)
        except ImportError as error:
            print(f"{name} is skipped: {error}\n")
    machine = environment(["torch", "optlayers", *peers.PEERS, "jax"])
    settings = {name: contestant.settings for name, contestant in contestants.items()}

    text: list[str] = []
    results: list[dict[str, Any]] = []
    _say(text, heading(machine, settings))
    for size in arguments.sizes:
        results.append(run(size, contestants, arguments.repeats))
        _say(text, size_table(results[-1]))
    _say(text, summary(results))
    if arguments.markdown:
        arguments.markdown.write_text("\n\n".join(text) + "\n")
    if arguments.json:
        content = {**machine, "settings": settings, "repeats": arguments.repeats, "results": results}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def run(size: Sequence[int], contestants: Mapping[str, peers.Contestant], repeats: int) -> dict[str, Any]:
    """Time and check every contestant on one random problem of `size`: batch, variables, inequalities, equalities."""
    problem = random_problem(*size)
    cotangent = torch.randn(problem.p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rounded = cast(problem, torch.float32)
    entries = {name: (contestant, problem) for name, contestant in contestants.items()}
    entries[SINGLE] = (contestants[OURS], rounded)
    cases = {}
    for name, (entry, data) in entries.items():
        case = entry.prepare(data, cotangent.to(data.p.dtype))
        try:
            case.backward(case.forward())
            cases[name] = case
        except RuntimeError as error:
            print(f"{name} fails on {tuple(size)}: {error}\n")

    product_rate = matrix_product_rate()
    times = measure(cases, repeats)
    exact = {data.p.dtype: _exact_solution(data, cotangent) for data in (problem, rounded)}
    measured = {}
    for name, case in cases.items():
        entry, data = entries[name]
        state = case.forward()
        point, gradient = entry.point(state), entry.gradient(case.backward(state), data)
        del state  # it holds the graph, which the peak is to count
        exact_point, exact_gradient = exact[data.p.dtype]
        measured[name] = {
            **times[name]._asdict(),
            "kkt_residual": kkt_residual(cast(data, torch.float64), cast(point, torch.float64)),
            "x_error": (point.x.double() - exact_point.x).abs().max().item(),
            "gradient_error": gradient_error(cast(gradient, torch.float64), exact_gradient),
            "peak_memory_mib": peak_memory(case),
        }

    others = [name for name in cases if name not in (OURS, SINGLE)]
    fastest = min(others, key=lambda name: times[name].total, default=None)
    return {
        "size": list(size),
        "matrix_product_gflops": product_rate,
        "fraction_of_product": 1e-6 * _factorization_flops(problem) / times[OURS].forward / product_rate,
        "fastest_peer": fastest,
        "ratio": times[fastest].total / times[OURS].total if fastest else None,
        "contestants": measured,
    }


def _exact_solution(data: Problem, cotangent: torch.Tensor) -> tuple[Point, Problem]:
    """The reference of data that may be rounded; this library's solution only tells it where to look first."""
    problem = cast(data, torch.float64)
    solution = peers.solve(problem)
    near = Point(solution.x, solution.y, solution.z)
    return solve_exactly(problem, near, cotangent.to(data.p.dtype).double())


def _factorization_flops(problem: Problem) -> float:
    """Of the forward pass, over the batch: Q + G'DG, its Cholesky factor, the Schur complement of A, its factor."""
    n, m, k = problem.Q.shape[-1], problem.G.shape[-2], problem.A.shape[-2]
    iterations = peers.solve(problem).iterations.sum().item()
    return iterations * (m * n**2 + n**3 / 3 + k * n**2 + k**2 * n + k**3 / 3)


def _say(text: list[str], part: str) -> None:
    print(part + "\n", flush=True)
    text.append(part)


def _arguments() -> argparse.Namespace:
    def size(text: str) -> tuple[int, ...]:
        numbers = tuple(int(number) for number in text.split(","))
        if len(numbers) != 4:
            raise argparse.ArgumentTypeError(f"{text!r}; expected batch,variables,inequalities,equalities")
        return numbers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, help="batch,variables,inequalities,equalities")
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of each contestant (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each contestant (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures as JSON")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write what is printed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
