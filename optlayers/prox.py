"""Proximal operators of penalties, differentiable in the point and in the strength of the penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from ._base.checks import broadcast_batch, check_shape, check_tensors
from ._base.numeric import norm
from ._base.spectral import InvariantSubspace, dilation, eigenpairs
from ._native.chain import chain_blocks, segment_mean

__all__ = [
    "elastic_net",
    "from_projection",
    "group",
    "l1",
    "none",
    "nonneg_l1",
    "nonneg_ridge",
    "nuclear",
    "ridge",
    "total_variation",
]

Number: TypeAlias = "float | Tensor"


def none(x: Tensor) -> Tensor:
    """The proximal operator of no penalty at all, the identity.

    Args:
        x: ``(*, n)`` float32 or float64.

    Returns:
        x.

    Raises:
        TypeError, ValueError: x is no tensor of these dtypes, or has no dimension.
    """
    _prepare("prox.none", x)
    return x


def l1(x: Tensor, strength: Number = 1.0) -> Tensor:
    r"""Soft thresholding, the proximal operator of the l1 norm.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 + \textstyle\sum_i \lambda_i |y_i|

    On a threshold the derivative is zero.

    Args:
        x: ``(*, n)`` float32 or float64.
        strength: a number or one-number tensor, ``(*, n)`` or ``(*, 1)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN at entries whose strength is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``strength < 0``.
    """
    x, strength = _prepare("prox.l1", x, strength=strength)
    return _shrink(x, strength)


def nonneg_l1(x: Tensor, strength: Number = 1.0) -> Tensor:
    r"""The proximal operator of the l1 norm on the nonnegative orthant.

    .. math:: \arg\min_{y \ge 0}\ \tfrac12\|y - x\|^2 + \textstyle\sum_i \lambda_i y_i

    Args:
        x: ``(*, n)`` float32 or float64.
        strength: a number or one-number tensor, ``(*, n)`` or ``(*, 1)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN at entries whose strength is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``strength < 0``.
    """
    x, strength = _prepare("prox.nonneg_l1", x, strength=strength)
    return torch.relu(x - strength)


def elastic_net(x: Tensor, strength: Number = 1.0, ridge: Number = 1.0) -> Tensor:
    r"""The proximal operator of the elastic net.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 + \textstyle\sum_i \lambda_i |y_i| + \tfrac12 \mu_i y_i^2

    Args:
        x: ``(*, n)`` float32 or float64.
        strength, ridge: the factors :math:`\lambda` and :math:`\mu`: numbers, ``(*, n)`` or ``(*, 1)``; leading
            dimensions broadcast.

    Returns:
        ``(*, n)``; NaN at entries with a negative factor.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a negative number for a factor.

    References: Zou and Hastie, "Regularization and variable selection via the elastic net" (2005).
    """
    x, strength, ridge = _prepare("prox.elastic_net", x, strength=strength, ridge=ridge)
    return _shrink(x, strength) / (1 + ridge)


def group(x: Tensor, strength: Number = 1.0) -> Tensor:
    r"""Block soft thresholding, the proximal operator of the norm (group lasso); the last dimension is one group.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 + \lambda \|y\|_2

    On the threshold, and at zero, the derivative is zero.

    Args:
        x: ``(*, n)`` float32 or float64.
        strength: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in groups whose strength is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``strength < 0``.

    References: Yuan and Lin, "Model selection and estimation in regression with grouped variables" (2006).
    """
    x, strength = _prepare("prox.group", x, own=1, strength=strength)
    length = norm(x)
    zero = length <= strength
    factor = 1 - strength / torch.where(zero, 1.0, length)
    return torch.where(strength.isnan(), torch.nan, torch.where(zero, 0.0, factor * x))


def ridge(x: Tensor, strength: Number = 1.0) -> Tensor:
    r"""The proximal operator of half the squared norm.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 + \textstyle\sum_i \tfrac12 \lambda_i y_i^2

    Args:
        x: ``(*, n)`` float32 or float64.
        strength: a number or one-number tensor, ``(*, n)`` or ``(*, 1)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN at entries whose strength is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``strength < 0``.
    """
    x, strength = _prepare("prox.ridge", x, strength=strength)
    return x / (1 + strength)


def nonneg_ridge(x: Tensor, strength: Number = 1.0) -> Tensor:
    r"""The proximal operator of half the squared norm on the nonnegative orthant.

    .. math:: \arg\min_{y \ge 0}\ \tfrac12\|y - x\|^2 + \textstyle\sum_i \tfrac12 \lambda_i y_i^2

    Args:
        x: ``(*, n)`` float32 or float64.
        strength: a number or one-number tensor, ``(*, n)`` or ``(*, 1)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN at entries whose strength is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``strength < 0``.
    """
    x, strength = _prepare("prox.nonneg_ridge", x, strength=strength)
    return torch.relu(x) / (1 + strength)


def nuclear(X: Tensor, strength: Number = 1.0) -> Tensor:
    r"""Soft thresholding of the singular values, the proximal operator of the nuclear norm.

    .. math:: \arg\min_Y\ \tfrac12\|Y - X\|_F^2 + \lambda \|Y\|_*

    Derivatives depend on the subspace of the singular values above the threshold, not on single singular vectors, so
    that repeated ones do no harm; they are exact up to third order. On the threshold they are those of below.

    Args:
        X: ``(*, m, n)`` float32 or float64.
        strength: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, m, n)``; NaN in samples whose strength is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``strength < 0``.

    References: Cai, Candes and Shen, "A singular value thresholding algorithm for matrix completion" (2010).
    """
    X, strength = _prepare("prox.nuclear", X, own=2, strength=strength)
    finite = torch.isfinite(X).all(-1, keepdim=True).all(-2, keepdim=True) & ~strength.isnan()
    rows = X.shape[-2]
    J = dilation(torch.where(finite, X, 0.0))
    values, vectors = eigenpairs(J)
    strength = torch.where(finite, strength, 0.0)
    keep = values > strength.detach().squeeze(-1)
    part = 2 * InvariantSubspace(J, values, vectors, keep).part(strength)
    return torch.where(finite, part[..., :rows, rows:], torch.nan)


def total_variation(x: Tensor, strength: Number = 1.0) -> Tensor:
    r"""The proximal operator of the total variation of a sequence (fused lasso signal approximation).

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 + \lambda \textstyle\sum_i |y_{i+1} - y_i|

    Exact. The result is constant on blocks, the mean of x there, moved by the strength towards the neighbours, and the
    derivative is that of this mean.

    Args:
        x: ``(*, n)`` float32 or float64.
        strength: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples whose strength is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``strength < 0``.

    References: Rudin, Osher and Fatemi (1992); Condat, "A direct algorithm for 1-D total variation denoising" (2013).
    """
    x, strength = _prepare("prox.total_variation", x, own=1, strength=strength)
    size = x.shape[:-1].numel()
    penalty = torch.where(strength.isnan(), 0.0, strength).expand(*x.shape[:-1], 1).reshape(size)
    labels, jumps = chain_blocks(x.reshape(size, x.shape[-1]), penalty, penalty)
    labels, jumps = labels.reshape(x.shape), jumps.reshape(x.shape)
    # A block is pulled up by a rise after it and by a fall before it.
    pull = jumps - torch.nn.functional.pad(jumps, (1, 0))[..., :-1]
    return segment_mean(x + strength * pull, labels)


def from_projection(project: Callable[..., Tensor]) -> Callable[..., Tensor]:
    r"""The proximal operator of the indicator of a set, which is the projection whatever the strength.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 + \lambda \iota_C(y) = P_C(x)

    Args:
        project: a projection, such as those of :mod:`optlayers.projection`.

    Returns:
        ``prox(x, strength=1.0)``, which ignores `strength`.
    """

    def prox(x: Tensor, strength: Number = 1.0) -> Tensor:
        return project(x)

    return prox


def _shrink(x: Tensor, strength: Tensor) -> Tensor:
    return torch.relu(x - strength) - torch.relu(-x - strength)


def _prepare(function: str, x: Tensor, own: int = 0, **strengths: Number) -> list[Tensor]:
    """`x` and its strengths, checked, in one batch.

    A strength has one number an entry, or one a sample of `own` dimensions, ones that are added to it. A negative
    number raises, a negative entry of a tensor becomes NaN: samples are strangers.
    """
    tensors = {name: value for name, value in strengths.items() if not isinstance(value, int | float)}
    check_tensors(function, {"x": x, **tensors})
    trailing = max(own, 1)
    check_shape(function, "x", x, ("m", "n")[-trailing:])
    shape = x.shape[x.dim() - trailing :]
    named = {"x": (x, trailing)}
    for name, value in strengths.items():
        if isinstance(value, Tensor):
            if own or value.dim() == 0:
                value = value.reshape(value.shape + (1,) * trailing)
            elif value.shape[-1] != 1:
                check_shape(function, name, value, tuple(shape), "because x has {} entries", shape[-1])
            named[name] = (torch.where(value >= 0, value, torch.nan), trailing)
        elif not value >= 0:
            raise ValueError(f"{function}: {name} is {value}; expected a number that is not negative.")
        else:
            named[name] = (torch.full((1,) * trailing, value, dtype=x.dtype, device=x.device), trailing)
    batch = broadcast_batch(function, named)
    return [x.expand(*batch, *shape), *[value for value, _ in list(named.values())[1:]]]
