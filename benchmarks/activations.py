"""Sparse activations beside the `entmax` package: forward and backward, and how far the two are apart.

`partial` is entmax's search in the largest entries only, with the number of them that it recommends.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from report import table
from runner import Case, Times, environment, limit_threads, measure
from torch import Tensor

import optlayers as ol

Layer = Callable[[Tensor], Tensor]
SIZES = [(4096, 64), (64, 10_000)]


def contestants() -> dict[str, tuple[Layer, dict[str, Layer]]]:
    """This library's layers, and what else computes the same."""
    entmax = import_module("entmax")
    return {
        "softmax": (ol.Softmax(), {"torch": lambda x: torch.softmax(x, -1)}),
        "sparsemax": (
            ol.Sparsemax(),
            {"entmax": lambda x: entmax.sparsemax(x, -1), "partial": lambda x: entmax.sparsemax(x, -1, 100)},
        ),
        "entmax 1.5": (
            ol.Entmax(1.5),
            {"entmax": lambda x: entmax.entmax15(x, -1), "partial": lambda x: entmax.entmax15(x, -1, 100)},
        ),
        "entmax 1.3": (ol.Entmax(1.3), {"entmax": lambda x: entmax.entmax_bisect(x, 1.3, n_iter=50)}),
    }


def case(layer: Layer, x: Tensor, upstream: Tensor) -> Case:
    leaf = x.clone().requires_grad_()
    return Case(lambda: layer(leaf), lambda y: torch.autograd.grad(y, leaf, upstream)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="repetitions of each contestant (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each contestant (%(default)s)")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write what is printed")
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    machine = environment(["torch", "optlayers", "entmax"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rows = []
    for size in SIZES:
        for dtype in (torch.float32, torch.float64):
            x, upstream = torch.randn(2, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))
            for name, (ours, others) in contestants().items():
                cases = {"ours": case(ours, x, upstream)}
                cases |= {other: case(layer, x, upstream) for other, layer in others.items()}
                times = measure(cases, arguments.repeats)
                rows += [row(name, size, dtype, other, cases, times) for other in others]
    header = ["layer, size, dtype", "ours ms", "forward", "backward", "peer", "ms", "slower", "value", "gradient"]
    text = (
        f"{machine['date']}, {machine['processor']}, {machine['threads']} threads, load {machine['load']}.\n{versions}."
        "\n\nMedians of a call, forward and backward. The last two columns are the largest difference to the peer.\n\n"
        + table(header, rows)
    )
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")


def row(
    name: str, size: tuple[int, int], dtype: torch.dtype, other: str, cases: dict[str, Case], times: dict[str, Times]
) -> list[str]:
    (y, gradient), (peer_y, peer_gradient) = (
        (cases[who].forward(), cases[who].backward(cases[who].forward())) for who in ("ours", other)
    )
    ours, peer = times["ours"], times[other]
    return [
        f"{name}, {size}, {str(dtype).removeprefix('torch.')}",
        *(f"{value:.2f}" for value in ours),
        other,
        f"{peer.total:.2f}",
        f"{peer.total / ours.total:.1f}x",
        f"{(y - peer_y).abs().max().item():.0e}",
        f"{(gradient - peer_gradient).abs().max().item():.0e}",
    ]


if __name__ == "__main__":
    main()
