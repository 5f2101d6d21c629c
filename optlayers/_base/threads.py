"""Around a defect of torch on several CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def one_thread(matrix: Tensor) -> Iterator[None]:
    """A batch of LU factorizations on several CPU threads has invalid pivots, or hangs, from N = 150 on (torch 2.13).

    Under vmap the batch does not show in the shape, so that size and device alone decide.
    """
    if torch.compiler.is_compiling() or matrix.device.type != "cpu" or matrix.shape[-1] < 128:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
