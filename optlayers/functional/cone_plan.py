"""The plan by which the compiled kernels put together the linear systems of cone programs, written once a structure."""

from __future__ import annotations

import numpy as np

from .._base.pattern import Pattern
from .._native import available
from .._native.cone_kkt import ConeKkt
from ..solvers.conic import Cones

# As csrc/cpu/cone_kkt_plan.h numbers them.
ZERO, NONNEG, SECOND_ORDER, PSD, EXPONENTIAL, POWER = range(6)
LARGEST = 1 << 22  # terms of C above which blocks, dense as they are, had better not be formed by the kernels


def cone_kkt(cones: Cones, on_P: Pattern, on_A: Pattern) -> ConeKkt | None:
    """The kernels for these patterns; None where they are not available, or not made for these cones."""
    if not available("cpu"):
        return None
    (m, n), N = on_A.shape, sum(on_A.shape)
    kind, size, exponents = _blocks(cones)
    start = np.cumsum(size) - size
    block_of = np.repeat(np.arange(len(kind)), size)
    dense = kind > NONNEG
    square = np.where(dense, size * size, 0)

    # Off the diagonal each pair of entries of P that mirror each other is one of K.
    low, high = np.minimum(on_P.rows, on_P.cols), np.maximum(on_P.rows, on_P.cols)
    pair, slot = np.unique((low * N + high)[low != high], return_inverse=True)
    slot_P = low.astype(np.int64)
    slot_P[low != high] = N + slot

    # A block of C has a run of entries for each column in which one of its rows has one; rows of zero and nonneg are
    # blocks of their own.
    group = np.where(dense[block_of], start[block_of], np.arange(m))  # of a row: the first row of its block
    width = np.where(dense[block_of], size[block_of], 1)
    runs, run_of = np.unique(group[on_A.rows] * max(n, 1) + on_A.cols, return_inverse=True)
    first_row, column = np.divmod(runs, max(n, 1))
    widths = width[first_row]
    if widths.sum() > LARGEST or square.sum() > LARGEST:
        return None
    begin = N + len(pair) + np.cumsum(widths) - widths
    inside = np.arange(widths.sum()) - np.repeat(np.cumsum(widths) - widths, widths)
    diagonal = np.arange(N)
    rows = np.concatenate([diagonal, pair // N, n + np.repeat(first_row, widths) + inside])
    cols = np.concatenate([diagonal, pair % N, np.repeat(column, widths)])

    of_block = np.searchsorted(first_row, start), np.searchsorted(first_row, start + size)
    entry = np.append(begin, 0)[of_block[0]]
    blocks = np.stack([kind, start, size, np.cumsum(square) - square, entry, of_block[1] - of_block[0]], 1)
    order = max(cones.psd, default=0)
    sizes = [n, m, len(kind), len(on_P.rows), len(on_A.rows), len(rows), square.sum(), order]
    words = [
        sizes,
        blocks.ravel(),
        on_P.rows,
        on_P.cols,
        slot_P,
        on_A.rows,
        on_A.cols,
        begin[run_of],
        block_of,
        rows,
        cols,
    ]
    return ConeKkt(
        np.concatenate([np.asarray(part, np.int64) for part in words]),
        exponents,
        rows,
        cols,
        (on_P.rows, on_P.cols),
        (n, m),
    )


def _blocks(cones: Cones) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind, number of rows and exponent of each block, in the order of the rows."""
    parts = [
        *([(ZERO, cones.zero, 0.0)] if cones.zero else []),
        *([(NONNEG, cones.nonneg, 0.0)] if cones.nonneg else []),
        *((SECOND_ORDER, size, 0.0) for size in cones.second_order),
        *((PSD, order * (order + 1) // 2, 0.0) for order in cones.psd),
        *[(EXPONENTIAL, 3, 0.0)] * cones.exponential,
        *((POWER, 3, exponent) for exponent in cones.power),
    ]
    kind, size, exponent = (list(column) for column in zip(*parts, strict=True)) if parts else ([], [], [])
    return np.array(kind, np.int64), np.array(size, np.int64), np.array(exponent, np.float64)
