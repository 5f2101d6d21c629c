"""Isotonic regression: projection onto the sequences that never fall."""

from __future__ import annotations

import torch
from torch import Tensor

from .._native.chain import chain_blocks, segment_mean
from ._arguments import check_point, flat


def isotonic(x: Tensor) -> Tensor:
    r"""Project onto the monotone cone; ``-isotonic(-x)`` projects onto the sequences that never rise.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad y_1 \le y_2 \le \dots \le y_n

    The result is constant on blocks, the mean of x there, and so is the derivative.

    Args:
        x: ``(*, n)`` float32 or float64.

    Returns:
        ``(*, n)``.

    Raises:
        TypeError, ValueError: x is no tensor of these dtypes, or has no dimension.

    References: Barlow et al., "Statistical inference under order restrictions" (1972); Blondel et al., "Fast
    differentiable sorting and ranking" (2020).
    """
    check_point("projection.isotonic", x)
    points = flat(x, x.shape)
    none = torch.zeros_like(points[:, :1]).squeeze(-1) if x.shape[-1] else points.sum(-1)
    labels, _ = chain_blocks(points, none, torch.full_like(none, torch.inf))
    return segment_mean(x, labels.reshape(x.shape))
