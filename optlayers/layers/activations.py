"""Activations that are optimization problems over the simplex, in closed form: softmax, sparsemax, entmax."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._base.checks import broadcast_batch
from .._native.threshold import entmax_point
from .dimension import to_last
from .shared_threshold import SharedThreshold, at_threshold


class Softmax(nn.Module):
    r"""The point of the simplex that trades utility against Shannon entropy; :func:`torch.softmax`.

    .. math:: \arg\max_p\ x^\top p - \sum_i p_i \log p_i \quad\text{s.t.}\quad p \ge 0,\; \mathbf 1^\top p = 1

    Args:
        dim: the dimension along which entries sum to one.

    References: Gao and Pavel, "On the properties of the softmax function" (2017).
    """

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """``x (*)`` to probabilities of the same shape; NaN where all is masked with ``-inf``."""
        return torch.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Entmax(nn.Module):
    r"""The point of the simplex that trades utility against Tsallis entropy: sparse probabilities.

    .. math:: \arg\max_p\ x^\top p + \frac{1}{\alpha (\alpha - 1)} \sum_i (p_i - p_i^\alpha)
              \quad\text{s.t.}\quad p \ge 0,\; \mathbf 1^\top p = 1

    Softmax for ``alpha = 1``, sparsemax for 2; the larger, the sparser. The threshold is found by Newton's method, from
    the left, where the function is convex, hence without sorting; the gradient is exact in ``x`` and ``alpha``, at any
    order, in both modes. Entries of ``-inf`` are masked out: they give 0 and get gradient 0. Where an entry is about to
    enter the support, the derivative is that of the side on which it is outside.

    Args:
        alpha: a number, or a tensor ``(*batch)`` with one for each sample, where the batch of ``x`` is its shape
            without ``dim``; leading dimensions broadcast. A parameter is learned. At least 1: a smaller number raises,
            a smaller entry of a tensor makes its samples NaN. Beyond 2, an entry at the edge of the support is known to
            ``eps ** (1 / (alpha - 1))`` only, which is how far a rounding error of ``x`` moves it.
        dim: the dimension along which entries sum to one.

    References: Peters, Niculae, Martins, "Sparse sequence-to-sequence models" (2019); Correia, Niculae, Martins,
    "Adaptively sparse transformers" (2019), for the derivative in ``alpha``.
    """

    def __init__(self, alpha: float | Tensor, dim: int = -1):
        super().__init__()
        if isinstance(alpha, nn.Parameter):
            self.alpha = alpha
        elif isinstance(alpha, Tensor):
            self.register_buffer("alpha", alpha)
        elif not alpha >= 1:
            raise ValueError(f"Entmax: alpha is {alpha}; expected a number that is at least 1.")
        else:
            self.alpha = float(alpha)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """``x (*)``, float32 or float64, to probabilities of the same shape.

        A sample in which all is masked, or with NaN, is NaN and gets gradient zero.

        Raises:
            TypeError: ``x`` is not a tensor.
            ValueError: another dtype, an empty ``dim``, or an ``alpha`` that does not broadcast.
        """
        return _entmax("Entmax", x, self.alpha, self.dim)

    def extra_repr(self) -> str:
        alpha = tuple(self.alpha.shape) if isinstance(self.alpha, Tensor) else self.alpha
        return f"alpha={alpha}, dim={self.dim}"


class Sparsemax(Entmax):
    r"""The point of the simplex nearest to ``x``: ``Entmax(2)``.

    .. math:: \arg\min_p\ \tfrac12 \|p - x\|^2 \quad\text{s.t.}\quad p \ge 0,\; \mathbf 1^\top p = 1

    Equal to :func:`~optlayers.projection.simplex`, along any dimension.

    Args:
        dim: the dimension along which entries sum to one.

    References: Martins and Astudillo, "From softmax to sparsemax" (2016).
    """

    def __init__(self, dim: int = -1):
        super().__init__(2.0, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``x (*)`` to probabilities of the same shape; as for :class:`Entmax`."""
        return _entmax("Sparsemax", x, self.alpha, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def _entmax(name: str, x: Tensor, alpha: float | Tensor, dim: int) -> Tensor:
    x = to_last(name, x, dim, alpha=alpha if isinstance(alpha, Tensor) else None)
    if not isinstance(alpha, Tensor):
        flat = x.reshape(-1, x.shape[-1])
        p = entmax_point(flat, x.new_full((flat.shape[0],), alpha)).reshape(x.shape)
        return at_threshold(_rule(alpha), p, [x]).movedim(-1, dim)
    batch = broadcast_batch(name, {"x": (x, 1), "alpha": (alpha, 0)})
    x = x.expand(*batch, x.shape[-1])
    p = entmax_point(x.reshape(-1, x.shape[-1]), alpha.expand(batch).reshape(-1)).reshape(x.shape)
    rule = SharedThreshold(_deformed_log, _slope, parameters=1)
    return at_threshold(rule, p, [x, alpha[..., None]]).movedim(-1, dim)


def _rule(alpha: float) -> SharedThreshold:
    """The rule for a number, where the powers may be simple."""
    if alpha == 1:
        return SharedThreshold(torch.log, lambda p: p)
    if alpha == 2:
        return SharedThreshold(lambda p: p, torch.sign)
    if alpha == 1.5:
        return SharedThreshold(lambda p: 2 * torch.sqrt(p), torch.sqrt)

    def order(p: Tensor) -> Tensor:
        return torch.full_like(p[..., :1], alpha)

    return SharedThreshold(lambda p: _deformed_log(p, order(p)), lambda p: _slope(p, order(p)))


def _deformed_log(p: Tensor, alpha: Tensor) -> Tensor:
    """``(p^a - 1) / a`` with ``a = alpha - 1``, which tends to ``log(p)``; its derivatives too."""
    log, a = torch.log(p), alpha - 1
    near = a.abs() < torch.finfo(p.dtype).eps ** 0.5
    safe = torch.where(near, 1.0, a)
    series = log * (1 + a * log / 2 * (1 + a * log / 3))
    return torch.where(near, series, torch.expm1(safe * log) / safe)


def _slope(p: Tensor, alpha: Tensor) -> Tensor:
    """``p^(2 - alpha)``, 0 where p is."""
    inside = p > 0
    return torch.where(inside, torch.where(inside, p, 1.0) ** (2 - alpha), 0.0)
