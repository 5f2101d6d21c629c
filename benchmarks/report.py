"""What a benchmark run says, as Markdown that reads well in a terminal too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTES = """\
Times are milliseconds a call, medians: forward and backward through autograd, every argument a leaf that requires a
gradient. Accuracy is the worst over the batch. KKT: absolute violation of stationarity, Ax = b and min(z, h - Gx) = 0,
with the multipliers each solver returns. x, gradient: absolute and relative error against LU with refinement on the
verified active set (float32: of the rounded data). Peak: MiB that one call adds to the resident memory. Product: flops
of the forward factorizations, iterations (m n^2 + n^3/3 + k n^2 + k^2 n + k^3/3) with n variables, m inequalities and
k equalities, over forward time, as a fraction of the rate of torch's float64 matrix product of size 1000 beside it."""


def heading(machine: Mapping[str, Any], settings: Mapping[str, str]) -> str:
    """Machine, versions, settings of the contestants, and what the columns mean."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n\n".join(
        [
            f"{machine['date']}, {machine['processor']}, {machine['threads']} threads on {machine['cores']} cores, "
            f"load {machine['load']}.\n{versions}.",
            "\n".join(f"- {name}: {setting}" for name, setting in settings.items()),
            NOTES,
        ]
    )


def size_table(result: Mapping[str, Any]) -> str:
    """All contestants on one size."""
    header = ["(B, n, m, k) = ({}, {}, {}, {})".format(*result["size"]), "ms", "forward", "backward", "to ours"]
    header += ["KKT", "x", "gradient", "peak"]
    rows = []
    ours = next(iter(result["contestants"].values()))
    for name, row in result["contestants"].items():
        cells = [f"{row[key]:.3f}" for key in ("total", "forward", "backward")] + [
            f"{row['total'] / ours['total']:.1f}"
        ]
        cells += [f"{row[key]:.0e}" for key in ("kkt_residual", "x_error", "gradient_error")]
        peak = row["peak_memory_mib"]
        rows.append([name, *cells, "-" if peak is None else f"{peak:.1f}"])
    return table(header, rows)


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """One line a size: this library, the fastest peer, and the machine."""
    header = ["(B, n, m, k)", "ms", "forward", "backward", "fastest peer", "is slower", "product", "GFLOP/s"]
    rows = []
    for result in results:
        ours = next(iter(result["contestants"].values()))
        times = [f"{ours[key]:.3f}" for key in ("total", "forward", "backward")]
        peer = [result["fastest_peer"], f"{result['ratio']:.1f}x"] if result["fastest_peer"] else ["-", "-"]
        machine = [f"{result['fraction_of_product']:.0%}", f"{result['matrix_product_gflops']:.0f}"]
        rows.append(["({}, {}, {}, {})".format(*result["size"]), *times, *peer, *machine])
    return table(header, rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return f"| {first[0]:<{first[1]}} | " + " | ".join(f"{cell:>{width}}" for cell, width in others) + " |"

    rule = line(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join([line(header), rule, *map(line, rows)])
