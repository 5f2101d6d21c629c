"""Sorting and ranking as projections onto a permutahedron, hence with useful derivatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..projection import isotonic
from .dimension import to_last


class _Soft(nn.Module):
    """What both hold: strength, direction and dimension."""

    def __init__(self, strength: float = 1.0, dim: int = -1, descending: bool = False):
        super().__init__()
        if not strength > 0:
            raise ValueError(f"{type(self).__name__}: strength is {strength}; expected a positive number.")
        self.strength, self.dim, self.descending = strength, dim, descending

    def extra_repr(self) -> str:
        return f"strength={self.strength}, dim={self.dim}, descending={self.descending}"


class SoftSort(_Soft):
    r"""Sorted values, softened: neighbours that are close are averaged.

    .. math:: \arg\max_y\ y^\top \rho - \frac{\varepsilon}{2} \|y\|^2 \quad\text{s.t.}\quad y \in P(x),

    with the permutahedron :math:`P(x)`, the convex hull of all permutations of ``x``, and
    :math:`\rho = (1, \dots, n)`: the projection of :math:`\rho / \varepsilon` onto it. Below some strength the result
    is exactly :func:`torch.sort`; as the strength grows, all entries tend to the mean. Piecewise linear in ``x``.

    Args:
        strength: the regularization :math:`\varepsilon > 0`.
        dim: the dimension to sort along.
        descending: the largest first.

    References: Blondel, Teboul, Berthet, Djolonga, "Fast differentiable sorting and ranking" (2020).
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x (*)``, float32 or float64, to a tensor of the same shape, sorted along ``dim``.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: another dtype, or an empty ``dim``.
        """
        x = to_last("SoftSort", x, self.dim)
        n = x.shape[-1]
        decreasing = x.sort(dim=-1, descending=True).values
        weights = torch.arange(n, 0, -1, dtype=x.dtype, device=x.device) / self.strength
        y = weights + isotonic(decreasing - weights)  # -isotonic(-x) is the nearest sequence that does not rise
        return (y if self.descending else y.flip(-1)).movedim(-1, self.dim)


class SoftRank(_Soft):
    r"""Ranks from 1 to n, softened: entries that are close share their ranks.

    .. math:: \arg\min_r\ \tfrac12 \|r - x / \varepsilon\|^2 \quad\text{s.t.}\quad r \in P(1, \dots, n),

    the projection onto the permutahedron, the convex hull of all permutations of the ranks. Below some strength the
    result is exactly the ranks, with gradient zero; as the strength grows, all tend to the mean. Ties share their rank.

    Args:
        strength: the regularization :math:`\varepsilon > 0`.
        dim: the dimension to rank along.
        descending: rank 1 is the largest, not the smallest.

    References: Blondel, Teboul, Berthet, Djolonga, "Fast differentiable sorting and ranking" (2020).
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x (*)``, float32 or float64, to ranks of the same shape.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: another dtype, or an empty ``dim``.
        """
        x = to_last("SoftRank", x, self.dim)
        n = x.shape[-1]
        z, order = ((-x if self.descending else x) / self.strength).sort(dim=-1, descending=True)
        ranks = torch.arange(n, 0, -1, dtype=x.dtype, device=x.device)
        sorted_ranks = z + isotonic(ranks - z)
        return sorted_ranks.gather(-1, order.argsort(-1)).movedim(-1, self.dim)
