"""The ordinary Adam step in one kernel, in place and without derivative: torch's own, where it has one."""

# torch gives its foreach and fused kernels no public name.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .lists import Tensors
from .transformation import State, Step


def adam_step(
    lr: Any, betas: tuple[Any, Any], eps: Any, weight_decay: Any, amsgrad: bool, maximize: bool, decoupled: bool
) -> Step | None:
    """Adam (AdamW if `decoupled`) on the state of the alias; None if the kernel does not take the options.

    It takes numbers, and a 0-d tensor as rate.
    """
    if not all(isinstance(value, (int, float)) for value in (*betas, eps, weight_decay)):
        return None
    if not isinstance(lr, (int, float)) and not (isinstance(lr, Tensor) and lr.ndim == 0):
        return None
    kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_

    def step(params: Tensors, grads: Tensors, state: State) -> State:
        moments = next(part for part in state if isinstance(part, dict))
        moments = {**moments, "step": moments["step"] + 1}
        steps = [moments["step"].to(params[0].device, torch.float32)] * len(params)
        largest = moments["nu_max"] if amsgrad else []
        kernel(
            params, grads, moments["mu"], moments["nu"], largest, steps, lr=lr, beta1=betas[0], beta2=betas[1],
            weight_decay=weight_decay, eps=eps, amsgrad=amsgrad, maximize=maximize,
        )  # fmt: skip
        return tuple(moments if isinstance(part, dict) else part for part in state)

    return step


def fits(params: list[Tensor], grads: list[Tensor]) -> bool:
    """Whether the kernel takes these tensors: one dtype and device, on CPU or CUDA, dense and laid out alike."""
    dtype, device = params[0].dtype, params[0].device
    return device.type in ("cpu", "cuda") and all(
        tensor.dtype == dtype and tensor.device == device and tensor.is_contiguous() for tensor in (*params, *grads)
    )
