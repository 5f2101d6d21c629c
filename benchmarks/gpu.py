"""Dense batched QPs on a GPU, forward and backward: the CUDA kernels beside qpth on the same GPU and our CPU engine.

    python benchmarks/gpu.py --markdown benchmarks/results/DATE-qp-gpu.md

Also prints the floor of each size, max(bytes / bandwidth, flops / rate), with the two rates measured on the device: no
program runs faster. The CPU engine is timed on at most ``--cpu-samples`` of the batch and scaled up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import torch
from reference import Point, Problem, kkt_residual
from report import table
from runner import environment
from torch import Tensor

import optlayers as ol

SIZES, BATCHES = (8, 16, 32, 64, 128, 256), (64, 1024, 16384)
NOTES = """\
n variables and m = n inequalities, forward and backward through autograd with a gradient in every argument; medians.
KKT: the worst absolute violation over the batch, computed in float64 of the data as given. Floor: bytes of the data,
the solution and the gradients over the bandwidth of a copy, or flops of the factorizations (m n^2 + n^3/3 for each
iteration and one for the gradients) over the rate of torch's float64 product, whichever is more. CPU: the same call
on two threads, of a part of the batch, scaled up."""


def main() -> None:
    arguments = _arguments()
    device = torch.device(arguments.device)
    torch.set_num_threads(2)
    bandwidth, rate = measure_bandwidth(device), measure_rate(device)
    machine = environment(["torch", "optlayers", "qpth"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU in the place of a GPU"
    head = [
        f"{machine['date']}, {name}: {bandwidth / 1e9:.0f} GB/s, {rate / 1e12:.2f} TFLOP/s in float64. "
        + ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
        + ".",
        f"```text\n{ol.show_config()}\n```",
        NOTES,
    ]
    print("\n\n".join(head) + "\n", flush=True)
    header = [
        "n = m",
        "batch",
        "dtype",
        "ms",
        "forward",
        "us a problem",
        "to floor",
        "KKT",
        "qpth ms",
        "qpth is slower",
    ]
    header += ["CPU is slower"]
    rows = []
    for n in arguments.sizes:
        for batch in arguments.batches:
            for dtype in (torch.float64, torch.float32):
                rows.append(run(n, batch, dtype, device, arguments, bandwidth, rate))
                print("  ".join(rows[-1]), flush=True)
    text = table(header, rows)
    print("\n" + text)
    if arguments.markdown:
        arguments.markdown.write_text("\n\n".join([*head, text]) + "\n")


def run(n: int, batch: int, dtype: torch.dtype, device: torch.device, arguments, bandwidth: float, rate: float):
    """One row of the table."""
    data = random_problem(batch, n, device, dtype)
    cotangent = torch.randn(batch, n, dtype=dtype, device=device)
    leaves = [t.requires_grad_() for t in data]

    def forward() -> Tensor:
        return ol.solve_qp(*leaves, throw=False).x

    def both(solve: Callable[[], Tensor] = forward, leaves: Sequence[Tensor] = leaves, v: Tensor = cotangent) -> None:
        torch.autograd.grad(solve(), leaves, v)

    total, ahead = measure(both, device), measure(forward, device)
    solution = ol.solve_qp(*data, throw=False)
    empty = solution.x.new_empty(batch, 0)
    none = data[2].new_empty(batch, 0, n)
    problem = Problem._make(t.detach().double() for t in (*data, none, empty))
    point = Point._make(t.detach().double() for t in (solution.x, empty, solution.z))
    solved = solution.status == 0
    kkt = kkt_residual(Problem._make(t[solved] for t in problem), Point._make(t[solved] for t in point))
    count = 4 * n * n + 6 * n  # Q, G, their gradients, and vectors
    moved = batch * count * data[0].element_size()
    flops = (solution.iterations.double().sum().item() + batch) * (n**3 + n**3 / 3)
    floor = max(moved / bandwidth, flops / rate)

    row = [str(n), str(batch), "float64" if dtype == torch.float64 else "float32", f"{1e3 * total:.3f}"]
    row += [f"{1e3 * ahead:.3f}", f"{1e6 * total / batch:.2f}", f"{total / floor:.1f}x", f"{kkt:.0e}"]
    row[-1] += "" if solved.all() else f" ({int((~solved).sum())} not solved)"
    row += _qpth(both, leaves, total, device)

    part = min(batch, arguments.cpu_samples)
    host = [t.detach()[:part].cpu().requires_grad_() for t in data]
    v = cotangent[:part].cpu()
    on_cpu = measure(lambda: both(lambda: ol.solve_qp(*host, throw=False).x, host, v), torch.device("cpu"))
    return [*row, f"{on_cpu * batch / part / total:.1f}x"]


def _qpth(both: Callable, leaves: Sequence[Tensor], ours: float, device: torch.device) -> list[str]:
    """qpth's time, and how many times ours it is; dashes where it is missing or fails."""
    try:
        function = import_module("qpth.qp").QPFunction(eps=1e-10, verbose=-1, maxIter=30, check_Q_spd=False)
        none = leaves[0].new_empty(0)
        seconds = measure(lambda: both(lambda: function(*leaves, none, none)), device)
    except (ImportError, RuntimeError):  # it needs memory of its own
        return ["-", "-"]
    return [f"{1e3 * seconds:.1f}", f"{seconds / ours:.1f}x"]


def random_problem(batch: int, n: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """As in reference.py, but made on the device: Q = LL'/n + 0.01 I, all else standard normal, a feasible point."""
    random = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=random, dtype=dtype, device=device)

    L = normal(n, n)
    Q = L @ L.mT / n
    del L
    Q.diagonal(dim1=-2, dim2=-1).add_(0.01)
    G = normal(n, n)
    h = (G @ normal(n, 1))[..., 0] + torch.rand(batch, n, generator=random, dtype=dtype, device=device)
    return [Q, normal(n), G, h]


def measure(call: Callable[[], object], device: torch.device, window: float = 0.3, repeats: int = 5) -> float:
    """Median seconds of a call, over repetitions that take about `window` seconds together."""
    call()
    calls = max(1, int(window / repeats / max(_seconds(call, 1, device), 1e-6)))
    return statistics.median(_seconds(call, calls, device) for _ in range(repeats))


def _seconds(call: Callable[[], object], calls: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


def measure_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.ones(1 << (28 if device.type == "cuda" else 22), dtype=torch.float64, device=device)
    target = torch.empty_like(source)
    return 16 * source.numel() / measure(lambda: target.copy_(source), device)


def measure_rate(device: torch.device) -> float:
    """Flops a second of torch's float64 matrix product."""
    size = 4096 if device.type == "cuda" else 512
    left, right = torch.rand(2, size, size, dtype=torch.float64, device=device)
    return 2 * size**3 / measure(lambda: left @ right, device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="a CUDA device; cpu runs the script without one")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="variables, and as many inequalities")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--cpu-samples", type=int, default=64, help="samples that the CPU engine is timed on")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write what is printed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
