"""Transformations that bound updates, differentiable also in the bound."""

from __future__ import annotations

import torch
from torch import Tensor

from . import lists
from .hyper import check_nonnegative
from .lists import Scalar, Tensors
from .transformation import GradientTransformation, stateless


def clip_by_value(limit: Scalar) -> GradientTransformation:
    """Clip every entry to ``[-limit, limit]``."""
    check_nonnegative("clip_by_value", limit=limit)

    def clip(update: Tensor) -> Tensor:
        bound = torch.as_tensor(limit).to(update)
        return torch.minimum(torch.maximum(update, -bound), bound)

    return stateless(lambda updates, params: lists.each(clip, updates))


def clip_by_norm(max_norm: Scalar) -> GradientTransformation:
    """Scale each tensor whose Euclidean norm exceeds `max_norm` back to it."""
    check_nonnegative("clip_by_norm", max_norm=max_norm)
    return stateless(lambda updates, params: [update * _shrink(norm(update), max_norm) for update in updates])


def clip_by_global_norm(max_norm: Scalar) -> GradientTransformation:
    """Scale all updates together if their Euclidean norm, over all tensors, exceeds `max_norm`.

    References: Pascanu et al., "On the difficulty of training recurrent neural networks" (2013).
    """
    check_nonnegative("clip_by_global_norm", max_norm=max_norm)

    def clip(updates: Tensors, params: Tensors | None) -> Tensors:
        if not updates:
            return updates
        return lists.scale(updates, _shrink(norm(torch.stack([norm(u).to(updates[0]) for u in updates])), max_norm))

    return stateless(clip)


def norm(update: Tensor) -> Tensor:
    """The Euclidean norm of all entries; its squares do not overflow.

    It is at least ``lists.smallest``; what is below counts as constant, with derivatives zero.
    """
    if update.numel() == 0:
        return update.sum()
    least = lists.smallest(update.dtype)
    with torch.no_grad():  # the norm does not depend on the scale, so neither does its derivative
        size = update.abs().amax()
        size = torch.where(size > least, size, 1.0).clamp_max(torch.finfo(update.dtype).max)
    return size * (update / size).square().sum().clamp_min(least**2).sqrt()


def _shrink(size: Tensor, max_norm: Scalar) -> Tensor:
    """``min(1, max_norm / size)``, finite also where both are zero."""
    bound = torch.as_tensor(max_norm).to(size)
    return bound / torch.maximum(size, bound).clamp_min(lists.smallest(size.dtype))
