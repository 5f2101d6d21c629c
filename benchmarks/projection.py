"""Projections beside sorting in torch, the `entmax` package, and what was published: forward and backward.

The published row is the best of table 2 of dQP (Magoon et al., "Differentiation through black-box quadratic programming
solvers", 2025), one projection onto the simplex by a differentiable QP layer on an Apple M2; it is there for the order
of magnitude. `floor` is what torch takes for `2 * x`, forward and backward, of this size: no function of x is faster.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from report import table
from runner import Case, environment, limit_threads, measure
from torch import Tensor

from optlayers import projection, prox

Function = Callable[[Tensor], Tensor]

# Entries: milliseconds, forward and backward, and whose they are.
PUBLISHED = {
    20: (0.29, "QPLayer"),
    100: (0.75, "BPQP"),
    450: (3.13, "dQP"),
    1000: (5.06, "dQP"),
    4600: (18.5, "dQP"),
    10_000: (49.0, "dQP"),
    100_000: (476.6, "dQP"),
}
BATCHES = [(4096, 64), (64, 10_000)]
CHAINS = [(1, 64), (1, 10_000), (4096, 64)]


def sorted_simplex(x: Tensor) -> Tensor:
    """By sorting, in plain torch."""
    largest = x.sort(-1, descending=True).values
    excess = largest.cumsum(-1) - 1
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    support = (count * largest > excess).sum(-1, keepdim=True)
    return (x - excess.gather(-1, support - 1) / support).clamp(min=0)


def case(function: Function, x: Tensor, upstream: Tensor) -> Case:
    leaf = x.clone().requires_grad_()
    return Case(lambda: function(leaf), lambda y: torch.autograd.grad(y, leaf, upstream)[0])


def timed(functions: dict[str, Function], size: tuple[int, int], dtype: torch.dtype, repeats: int) -> dict[str, str]:
    x, upstream = torch.randn(2, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    times = measure({name: case(function, x, upstream) for name, function in functions.items()}, repeats)
    return {name: f"{time.total:.3f}" for name, time in times.items()}


def simplex_rows(repeats: int) -> tuple[list[str], list[list[str]]]:
    entmax = import_module("entmax")
    functions: dict[str, Function] = {
        "ours": projection.simplex,
        "sort": sorted_simplex,
        "entmax": lambda x: entmax.sparsemax(x, -1),
        "entmax, 100": lambda x: entmax.sparsemax(x, -1, 100),
        "floor": lambda x: 2 * x,
    }
    rows = []
    for size in [*[(1, n) for n in PUBLISHED], *BATCHES]:
        times = timed(functions, size, torch.float64, repeats)
        best, who = PUBLISHED.get(size[1], (None, "")) if size[0] == 1 else (None, "")
        published = ["-", "-"] if best is None else [f"{best:g} ({who})", f"{best / float(times['ours']):.1f}x"]
        rows.append([str(size), *times.values(), *published])
    return ["simplex, float64", *functions, "published", "to ours"], rows


def chain_rows(repeats: int) -> tuple[list[str], list[list[str]]]:
    functions: dict[str, Function] = {
        "isotonic": projection.isotonic,
        "total variation": lambda x: prox.total_variation(x, 0.5),
        "floor": lambda x: 2 * x,
    }
    rows = [[str(size), *timed(functions, size, torch.float64, repeats).values()] for size in CHAINS]
    return ["chains, float64", *functions], rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="repetitions of each contestant (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each contestant (%(default)s)")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write what is printed")
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    machine = environment(["torch", "optlayers", "entmax"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    heading = (
        f"{machine['date']}, {machine['processor']}, {machine['threads']} threads, load {machine['load']}.\n{versions}."
        "\n\nMilliseconds a call, forward and backward, medians."
    )
    tables = [table(*rows(arguments.repeats)) for rows in (simplex_rows, chain_rows)]
    text = "\n\n".join([heading, *tables])
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")


if __name__ == "__main__":
    main()
