"""Refuses dense programs that would exhaust the memory or take hours, before anything is allocated for them."""

from __future__ import annotations

from pathlib import Path

import torch

LARGEST_FACTORIZATION = 1e12  # multiply-adds, some ten times in a solve: n = 14,000, about a quarter of an hour
SMALL = 3000  # below it nothing is looked at


def check_size(batch: int, n: int, rows: int, device: torch.device) -> None:
    """Check a batch of dense programs of `n` variables and as many `rows` of G and A together.

    Raises:
        ValueError: one factorization takes more than ``LARGEST_FACTORIZATION`` multiply-adds, or the workspace of the
            threads that run, three matrices like Q and two like the rows each, more memory than the machine has free.
    """
    if n + rows < SMALL:
        return
    work = n**2 * (n / 3 + rows)
    threads = min(torch.get_num_threads(), batch) if device.type == "cpu" else batch
    needed = 8 * threads * (3 * n * n + 2 * rows * n)
    free = available_memory(device)
    if work <= LARGEST_FACTORIZATION and (free is None or needed <= free):
        return
    memory = f"{needed / 2**30:.3g} GiB of workspace" + (f" ({free / 2**30:.3g} GiB are free)" if free else "")
    raise ValueError(
        f"solve_qp: a dense program of {n} variables and {rows} rows needs {memory} and {work:.0e} multiply-adds "
        f"for each of its factorizations (limit {LARGEST_FACTORIZATION:.0e}). Pass Q, G and A as sparse tensors "
        f"(Q.to_sparse_csr()) or scipy matrices, which go to a sparse solver. Fewer threads need less memory."
    )


def available_memory(device: torch.device) -> int | None:
    """Bytes that can be had, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
