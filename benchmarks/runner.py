"""Time contestants in turns, and measure memory and the machine beside them."""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Case(NamedTuple):
    """One problem in the hands of one contestant: what is timed."""

    forward: Callable[[], Any]
    backward: Callable[[Any], Any]  # of what forward returned


class Times(NamedTuple):
    """Medians over the repetitions, in milliseconds a call."""

    total: float
    forward: float
    backward: float


def limit_threads(count: int) -> None:
    """Give torch and the thread pools of the peers `count` threads. Call it before a peer is imported."""
    torch.set_num_threads(count)
    os.environ["RAYON_NUM_THREADS"] = os.environ["NPROC"] = str(count)  # Rust's pool, XLA's pool


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Other threads for torch. Its batched LU (2.13, x86) returns invalid pivots above n = 128 on more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(cases: Mapping[str, Case], repeats: int, window: float = 0.02) -> dict[str, Times]:
    """Time each case `repeats` times, in turns, so that a disturbance of the machine meets all of them.

    A turn calls a case, forward and backward, for at least about `window` seconds and counts the mean.
    """
    calls = {}
    for name, case in cases.items():
        _turn(case, 1)  # compiles, allocates, wakes the threads
        calls[name] = max(1, round(window / sum(_turn(case, 1))))
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, case in cases.items():
                turns[name].append(_turn(case, calls[name]))
    finally:
        gc.enable()
    return {
        name: Times(*(1e3 * statistics.median(t) for t in ([f + b for f, b in turn], *zip(*turn, strict=True))))
        for name, turn in turns.items()
    }


def _turn(case: Case, calls: int) -> tuple[float, float]:
    """Mean seconds of forward and of backward."""
    forward = backward = 0.0
    for _ in range(calls):
        start = time.perf_counter()
        state = case.forward()
        middle = time.perf_counter()
        case.backward(state)
        backward += time.perf_counter() - middle
        forward += middle - start
    return forward / calls, backward / calls


def peak_memory(case: Case) -> float | None:
    """MiB that one forward and backward adds to the resident memory at its peak; None where Linux is not there to ask.

    Memory that a library keeps from earlier calls is not counted, so this is a lower bound.
    """
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # else what earlier calls have freed hides what this one takes
    clear.write_text("5")  # resets VmHWM, the peak
    before = _status("VmRSS")
    case.backward(case.forward())
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def matrix_product_rate(size: int = 1000, repeats: int = 7) -> float:
    """GFLOP/s of torch's float64 matrix product, the median: what this machine, in this minute, calls fast."""
    left, right = torch.rand(2, size, size, dtype=torch.float64)
    out = torch.empty_like(left)
    case = Case(lambda: torch.mm(left, right, out=out), lambda _: None)
    return 2e-6 * size**3 / measure({"product": case}, repeats)["product"].total


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """Date, machine, load and the versions of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    cpu = Path("/proc/cpuinfo")
    models = [line for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": models[0].split(":", 1)[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
