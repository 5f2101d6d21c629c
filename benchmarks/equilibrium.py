"""Time and memory of a deep equilibrium's gradient against the number of solver steps T, beside TorchDEQ.

The map is ``z <- tanh(W z + U x + b)`` with the norm of W at 0.9, run for exactly T Picard steps. Backpropagation
through time keeps every step; implicit differentiation one. Each line is a process of its own: memory is what autograd
saves for backward (in the nodes of the graph, each storage once; parameters and inputs not counted), and the growth of
the peak resident memory of the process over forward and backward.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from report import table
from runner import environment, limit_threads
from torch import Tensor, nn

import optlayers as ol

ROWS = {  # what is differentiated -> the complexity that is claimed: time, space
    "unrolled": ("T P", "T P"),
    "implicit, exact": ("(T + k) P", "P"),
    "implicit, Neumann(5)": ("(T + k) P", "P"),
    "implicit, Identity": ("T P", "P"),
    "TorchDEQ, unrolled": ("T P", "T P"),
    "TorchDEQ, implicit": ("(T + k) P", "P"),
    "TorchDEQ, phantom 5": ("(T + k) P", "k P"),
}


class Cell(nn.Module):
    """The map; P is its number of parameters."""

    def __init__(self, width: int):
        super().__init__()
        self.inside, self.outside = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.inside.weight.mul_(0.9 / torch.linalg.matrix_norm(self.inside.weight, 2))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.inside(z) + self.outside(x))


def equilibrium(row: str, cell: Cell, steps: int) -> Callable[[Tensor], Tensor]:
    """``x`` to the state after `steps` steps."""
    if row.startswith("TorchDEQ"):
        how = {
            "TorchDEQ, unrolled": {"grad": steps, "f_max_iter": 0},
            "TorchDEQ, implicit": {"ift": True, "f_max_iter": steps, "b_max_iter": 50, "b_tol": 1e-5},
            "TorchDEQ, phantom 5": {"grad": 5, "f_max_iter": steps},
        }[row]
        deq = import_module("torchdeq").get_deq(
            f_solver="fixed_point_iter", b_solver="fixed_point_iter", f_tol=0.0, **how
        )
        return lambda x: deq(lambda z: cell(z, x), torch.zeros_like(x))[0][-1]
    solver = ol.Picard(steps=steps, batch_ndim=1)
    adjoint = {
        "unrolled": ol.Unroll(),
        "implicit, exact": ol.Implicit(ol.linear_solve.GMRES(1e-5, batch_ndim=1)),
        "implicit, Neumann(5)": ol.Implicit(ol.linear_solve.Neumann(5)),
        "implicit, Identity": ol.Implicit(ol.linear_solve.Identity()),
    }[row]
    return ol.FixedPointLayer(cell, solver=solver, adjoint=adjoint)


def measure_one(row: str, width: int, steps: int, batch: int, repeats: int) -> dict[str, float]:
    """For a process of its own: least processor ms, MiB saved by autograd and grown at the peak, gradient error."""
    torch.manual_seed(0)
    cell, x = Cell(width), torch.randn(batch, width)
    layer, parameters = equilibrium(row, cell, steps), list(cell.parameters())
    small = equilibrium(row, cell, min(steps, 2))
    torch.autograd.grad(small(x).square().sum(), parameters)  # imports, workspaces
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    z = layer(x)
    saved = bytes_saved(z, [x, *parameters])
    gradient = torch.autograd.grad(z.square().sum(), parameters)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    del z
    times = []
    for _ in range(repeats):
        start = time.process_time()
        torch.autograd.grad(layer(x).square().sum(), parameters)
        times.append(time.process_time() - start)
    exact = torch.autograd.grad(equilibrium("implicit, exact", cell, 300)(x).square().sum(), parameters)
    error = sum((a - b).norm() for a, b in zip(gradient, exact, strict=True)) / sum(b.norm() for b in exact)
    return {
        "ms": 1e3 * min(times),
        "saved": saved / 2**20,
        "peak": peak / 1024,
        "error": float(error),
    }


def bytes_saved(output: Tensor, given: list[Tensor]) -> int:
    """What the nodes of the graph of `output` hold, besides the tensors that were `given`."""
    known = {t.untyped_storage().data_ptr() for t in given}
    found, nodes, seen = {}, [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        held = list(getattr(node, "saved_tensors", ()))
        held += [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for tensor in held:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        nodes += [parent for parent, _ in node.next_functions]
    return sum(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 30, 100, 300])
    parser.add_argument("--widths", nargs="+", type=int, default=[16, 64, 512], help="P = 2 width^2 + width")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write what is printed")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw time and memory against the steps")
    parser.add_argument("--one", nargs=3, metavar=("ROW", "WIDTH", "STEPS"), help="one line, as JSON")
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    if arguments.one:
        row, width, steps = arguments.one
        print(json.dumps(measure_one(row, int(width), int(steps), arguments.batch, arguments.repeats)))
        return

    machine = environment(["torch", "optlayers", "torchdeq"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    heading = f"{machine['date']}, {machine['processor']}, {machine['threads']} threads, load {machine['load']}."
    legend = (
        f"Batch of {arguments.batch}, float32. A cell holds processor ms / MiB saved by autograd / MiB of peak growth. "
        "The last column is the relative error of the gradient at the largest T, against 300 steps and GMRES; k is the "
        "number of backward products."
    )
    parts = [f"{heading}\n{versions}.", str(__doc__).strip(), legend]
    curves: dict[int, dict[str, list[dict[str, float]]]] = {}
    for width in arguments.widths:
        rows = []
        for name, (time_claimed, space_claimed) in ROWS.items():
            cells, last = [], {}
            curve = curves.setdefault(width, {}).setdefault(name, [])
            for steps in arguments.steps:
                command = [sys.executable, __file__, "--one", name, str(width), str(steps)]
                command += ["--batch", str(arguments.batch), "--repeats", str(arguments.repeats)]
                command += ["--threads", str(arguments.threads)]
                last = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                curve.append(last)
                cells.append(f"{last['ms']:.1f} / {last['saved']:.2f} / {last['peak']:.1f}")
            rows.append([name, f"O({time_claimed})", f"O({space_claimed})", *cells, f"{last['error']:.0e}"])
            print(rows[-1], file=sys.stderr, flush=True)
        header = [f"P = {2 * width * width + width}", "time", "space", *(f"T = {t}" for t in arguments.steps), "error"]
        parts.append(table(header, rows))
    text = "\n\n".join(parts)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    if arguments.plot:
        plot(arguments.plot, arguments.steps, curves)


def plot(path: Path, steps: list[int], curves: dict[int, dict[str, list[dict[str, float]]]]) -> None:
    """Time above, memory that autograd saves below, one column for each width."""
    figures = import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(4 * len(curves), 6))
    axes = figure.subplots(2, len(curves), squeeze=False)
    for column, (width, rows) in zip(axes.T, curves.items(), strict=True):
        for axis, key in zip(column, ("ms", "saved"), strict=True):
            for name, found in rows.items():
                style = "--" if name.startswith("TorchDEQ") else "-"
                axis.loglog(steps, [max(one[key], 1e-3) for one in found], style, marker=".", label=name)
            axis.set(xlabel="solver steps T", ylabel={"ms": "processor ms", "saved": "MiB saved"}[key])
        column[0].set_title(f"width {width}")
    axes[0, 0].legend(fontsize="x-small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
