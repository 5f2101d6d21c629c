"""The ordinary Adam step by torch's own fused kernel, which goes through lists of tensors without Python."""

# torch gives its foreach and fused kernels no public name.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .lists import Tensors
from .transformation import GradientTransformation, State


def with_torch_step(
    transformation: GradientTransformation,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    amsgrad: bool,
    maximize: bool,
    decoupled: bool,
) -> GradientTransformation:
    """Adam (AdamW if `decoupled`), whose steps in place are those of torch where its kernel takes options and tensors.

    It takes numbers, and a 0-d tensor as rate.
    """
    if not all(isinstance(value, (int, float)) for value in (*betas, eps, weight_decay)):
        return transformation
    if not isinstance(lr, (int, float)) and not (isinstance(lr, Tensor) and lr.ndim == 0):
        return transformation
    kernel, other = (torch._fused_adamw_ if decoupled else torch._fused_adam_), transformation.step_list

    def step(params: Tensors, grads: Tensors, state: State) -> State | None:
        if not _fits(params, grads):
            return None if other is None else other(params, grads, state)
        moments = next(part for part in state if isinstance(part, dict))
        moments = {**moments, "step": moments["step"] + 1}
        steps = [moments["step"].to(params[0].device, torch.float32)] * len(params)
        largest = moments["nu_max"] if amsgrad else []
        kernel(
            params, grads, moments["mu"], moments["nu"], largest, steps, lr=lr, beta1=betas[0], beta2=betas[1],
            weight_decay=weight_decay, eps=eps, amsgrad=amsgrad, maximize=maximize,
        )  # fmt: skip
        return tuple(moments if isinstance(part, dict) else part for part in state)

    return GradientTransformation(transformation.init_list, transformation.update_list, step)


def _fits(params: list[Tensor], grads: list[Tensor]) -> bool:
    """Whether the kernel takes these tensors: one dtype and device, on CPU or CUDA, dense and laid out alike."""
    dtype, device = params[0].dtype, params[0].device
    return device.type in ("cpu", "cuda") and all(
        tensor.dtype == dtype and tensor.device == device and tensor.is_contiguous() for tensor in (*params, *grads)
    )
