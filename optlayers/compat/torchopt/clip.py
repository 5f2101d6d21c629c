"""TorchOpt's `clip_grad_norm`, with a derivative that is exact: the norm takes part in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import optim
from .base import GradientTransformation, adapt

__all__ = ["clip_grad_norm"]


def clip_grad_norm(max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> GradientTransformation:
    """Scale all updates together if their `norm_type`-norm, over all tensors, exceeds `max_norm`.

    Args:
        error_if_nonfinite: raise if the norm is not finite. Reads it, so not under vmap or compile.

    Raises:
        RuntimeError: a norm that is not finite, if `error_if_nonfinite`.
    """
    order = float(norm_type)

    def update(updates: list[Tensor], state: Any, *, params: Any = None, inplace: bool = True):
        if not updates:
            return updates, state
        if error_if_nonfinite and not all(bool(torch.isfinite(update).all()) for update in updates):
            raise RuntimeError(f"clip_grad_norm: the {order}-norm of the gradients is not finite.")
        if order == 2.0:
            return euclidean.update_list(updates, state, None, False)
        like = updates[0]
        flat = torch.cat([update.flatten().to(like) for update in updates])
        size = torch.linalg.vector_norm(flat, ord=order)
        ratio = max_norm / size.clamp_min(max_norm) if max_norm > 0 else torch.zeros_like(size)
        return [update * ratio.to(update) for update in updates], state

    euclidean = optim.clip_by_global_norm(max_norm)
    return adapt(GradientTransformation(lambda params: (), update))
