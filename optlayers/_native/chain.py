"""The blocks of a chain of numbers that prefer to be equal, as in isotonic regression and total variation."""

from __future__ import annotations

import torch
from torch import Tensor

from .ops import call, chain_workspace
from .search import plain, search


def _empty(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int64), torch.empty_like(x)


def _compiled(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    inputs = [t.contiguous() for t in (x, up, down)]
    labels, jumps = _empty(*inputs)
    threads = min(torch.get_num_threads(), max(x.shape[0], 1))
    workspace = chain_workspace(threads, x.shape[1])
    call("chain", x.dtype, *x.shape, *[t.data_ptr() for t in (*inputs, labels, jumps, workspace)])
    return labels, jumps


@search(_empty, _compiled)
def chain_blocks(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    r"""Number the blocks on which the solution of a chain problem is constant, from 0, as ``(B, n)`` int64; and tell,
    as ``(B, n)`` of x's dtype, which entry is followed by a rise, 1, or by a fall, -1, to another block.

    .. math:: \min_y\ \tfrac12\|y - x\|^2 + \sum_i u\,(y_{i+1} - y_i)_+ + d\,(y_i - y_{i+1})_+

    for ``x (B, n)`` and penalties ``up (B,)`` and ``down (B,)``, nonnegative and possibly inf.

    Every segment is split at the mean that it would have as one block: which of its entries lie above is a minimum cut
    of a chain, found by dynamic programming. A segment that does not split is a block. All segments of all samples go
    at once, and the dynamic program, a composition of clipped shifts, is a parallel scan.

    On the CPU a compiled kernel follows the taut string instead. Neighbours that only a tie sets apart, of the same
    value up to rounding, are one block there; here they may be two.

    References: Darbon and Sigelle, "Image restoration with discrete constrained total variation" (2006); Johnson, "A
    dynamic programming algorithm for the fused lasso and l0-segmentation" (2013); Davies and Kovac, "Local extremes,
    runs, strings and multiresolution" (2001), for the taut string.
    """
    batch, n = x.shape
    labels = torch.zeros(batch, n, dtype=torch.int64, device=x.device)
    jumps = torch.zeros_like(x)
    if batch == 0 or n < 2:
        return labels, jumps
    x = torch.where(torch.isfinite(x).all(-1, keepdim=True), x, 0.0).double()
    up, down = up[:, None].double(), down[:, None].double()
    first = torch.zeros_like(labels, dtype=torch.bool)
    first[:, 0] = True
    # What the neighbours of a segment pull at its ends: once split, they stay above or below it.
    pull = torch.zeros_like(x)
    while True:
        labels = first.cumsum(-1) - 1
        ends = torch.cat([first[:, 1:], torch.ones_like(first[:, :1])], -1)
        pulled = x + pull
        rounding = 1e-13 * torch.zeros_like(x).scatter_reduce_(-1, labels, pulled.abs(), "amax").gather(-1, labels)
        above = _above(pulled - segment_mean(pulled, labels), rounding, first, ends, up, down)
        splits = (above[:, 1:] != above[:, :-1]) & ~first[:, 1:]
        if not splits.any():
            return labels, jumps
        rises = splits & above[:, 1:]
        force = torch.where(rises, up, torch.where(splits, -down, 0.0))
        pull[:, :-1] += force
        pull[:, 1:] -= force
        jumps[:, :-1] += torch.where(rises, 1.0, torch.where(splits, -1.0, 0.0))
        first[:, 1:] |= splits


def segment_mean(x: Tensor, labels: Tensor) -> Tensor:
    """The mean over its block for every entry of ``x (*, n)``; differentiable in x."""
    if plain(x, labels):
        return _SegmentMean.apply(x, labels)
    total = torch.zeros_like(x).scatter_add(-1, labels, x)
    count = torch.zeros_like(x).scatter_add(-1, labels, torch.ones_like(x))
    return (total / count.clamp(min=1)).gather(-1, labels)


class _SegmentMean(torch.autograd.Function):
    """The same by a kernel, of plain tensors and for reverse mode: the map is its own transpose."""

    @staticmethod
    def forward(ctx, x, labels):
        ctx.save_for_backward(labels)
        x, labels = x.contiguous(), labels.contiguous()
        mean, n = torch.empty_like(x), x.shape[-1]
        if n:
            call("block_mean", x.dtype, x.numel() // n, n, x.data_ptr(), labels.data_ptr(), mean.data_ptr())
        return mean

    @staticmethod
    def backward(ctx, cotangent):
        return segment_mean(cotangent, ctx.saved_tensors[0]), None


def _above(gain: Tensor, rounding: Tensor, first: Tensor, ends: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Which entries to put above, each for its gain, when a rise costs ``up`` and a fall ``down`` inside segments.

    With ``m_i`` the advantage of the best choices up to ``i`` that put ``i`` above over those that do not,
    ``m_{i+1} = gain_{i+1} + clip(m_i, -up, down)``. Being better by ``down`` pays for a fall whatever comes, so that
    then ``i`` is above; the other way round it is below; in between it goes with its neighbour.
    """
    n = gain.shape[-1]
    # m_i as a function of m before the segment part scanned: clip(m + shift, low, high); a first entry ignores m.
    low = torch.where(first, gain, gain - up)
    high = torch.where(first, gain, gain + down)
    shift = gain.clone()
    step = 1
    while step < n:
        earlier_shift, earlier_low, earlier_high = shift[:, :-step], low[:, :-step], high[:, :-step]
        later_shift, later_low, later_high = shift[:, step:], low[:, step:], high[:, step:]
        new_low = (earlier_low + later_shift).clamp(later_low, later_high)
        new_high = (earlier_high + later_shift).clamp(later_low, later_high)
        shift = torch.cat([shift[:, :step], earlier_shift + later_shift], -1)
        low = torch.cat([low[:, :step], new_low], -1)
        high = torch.cat([high[:, :step], new_high], -1)
        step *= 2
    advantage = low  # = high: every part reaches back to a first entry
    decided = ends | (advantage > down + rounding) | (advantage < -up)  # with `down` 0, rounding decides nothing
    position = torch.arange(n, device=gain.device)
    # The nearest decided entry at or after each one.
    index = torch.where(decided, position, n - 1).flip(-1).cummin(-1).values.flip(-1)
    return (advantage > rounding).gather(-1, index)
