"""Choosing k of n, softened: the limited multi-label projection and its Euclidean counterpart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._native.threshold import lml_point
from ..projection import capped_simplex
from .dimension import to_last
from .shared_threshold import SharedThreshold, at_threshold


class LML(nn.Module):
    r"""Probabilities of being among the k largest: the limited multi-label projection, a softmax for k labels.

    .. math:: \arg\max_p\ x^\top p + \sum_i H(p_i) \quad\text{s.t.}\quad 0 \le p \le 1,\; \mathbf 1^\top p = k,

    with the binary entropy :math:`H(p) = -p \log p - (1 - p) \log(1 - p)`: a sigmoid with a shared threshold. Exact
    derivatives of any order, in both modes. Entries of ``-inf`` are masked out.

    Args:
        k: how many, at least 1.
        dim: the dimension along which entries sum to k; it must have more than k entries.

    References: Amos, Koltun, Kolter, "The limited multi-label projection layer" (2019).
    """

    def __init__(self, k: int, dim: int = -1):
        super().__init__()
        self.k, self.dim = _checked("LML", k), dim

    def forward(self, x: Tensor) -> Tensor:
        """``x (*)``, float32 or float64, to probabilities of the same shape.

        A sample with NaN, or with less than k entries that are not masked, is NaN and gets gradient zero.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: another dtype, or no more than k entries along ``dim``.
        """
        x = _more_than("LML", x, self.k, self.dim)
        p = lml_point(x.reshape(-1, x.shape[-1]), self.k).reshape(x.shape)
        rule = SharedThreshold(torch.logit, lambda p: p * (1 - p), self.k)
        return at_threshold(rule, p, [x]).movedim(-1, self.dim)

    def extra_repr(self) -> str:
        return f"k={self.k}, dim={self.dim}"


class TopK(nn.Module):
    r"""The nearest choice of k of n: a sparse top-k, the Euclidean counterpart of :class:`~optlayers.LML`.

    .. math:: \arg\min_p\ \tfrac12 \|p - x / \varepsilon\|^2
              \quad\text{s.t.}\quad 0 \le p \le 1,\; \mathbf 1^\top p = k

    :func:`~optlayers.projection.capped_simplex`, along any dimension. As the strength vanishes it becomes the indicator
    of the k largest; with ``k = 1`` and strength 1 it is :class:`~optlayers.Sparsemax`.

    Args:
        k: how many, at least 1.
        strength: the regularization :math:`\varepsilon > 0`.
        dim: the dimension along which entries sum to k; it must have more than k entries.

    References: Blondel, Martins, Niculae, "Learning with Fenchel-Young losses" (2020), on the budget polytope.
    """

    def __init__(self, k: int, strength: float = 1.0, dim: int = -1):
        super().__init__()
        if not strength > 0:
            raise ValueError(f"TopK: strength is {strength}; expected a positive number.")
        self.k, self.strength, self.dim = _checked("TopK", k), strength, dim

    def forward(self, x: Tensor) -> Tensor:
        """``x (*)``, float32 or float64, to weights in [0, 1] of the same shape.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: another dtype, or no more than k entries along ``dim``.
        """
        x = _more_than("TopK", x, self.k, self.dim)
        return capped_simplex(x / self.strength, self.k).movedim(-1, self.dim)

    def extra_repr(self) -> str:
        return f"k={self.k}, strength={self.strength}, dim={self.dim}"


def _checked(name: str, k: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"{name}: k is {k!r}; expected an integer that is at least 1.")
    return k


def _more_than(name: str, x: Tensor, k: int, dim: int) -> Tensor:
    x = to_last(name, x, dim)
    if x.shape[-1] <= k:
        raise ValueError(f"{name}: x has {x.shape[-1]} entries along dimension {dim}; expected more than k = {k}.")
    return x
