"""When a step of lists of tensors is taken by a kernel."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

from .. import _native
from .._native import update_ops
from .._native.update_ops import Moments
from .fused_ops import Step, differentiable, full
from .lists import Tensors
from .moment_rule import Entry, Next


def fused_step(numbers: Moments, entry: Entry, overwrite: bool) -> Next | None:
    """:func:`moment_step` in a kernel, or None where there is none for these tensors and numbers."""
    g, _, m, v, top = entry
    tensors = [tensor for column in entry if column is not None for tensor in column]
    if not _fits(numbers, g, tensors):
        return None
    if overwrite and _writable(tensors):
        u = [torch.empty_like(tensor) for tensor in g]
        update_ops.step(numbers, entry, (u, m, v, top))
        return u, m, v, top
    step = Step(numbers, len(g), [column is not None for column in entry])
    u, m, v, top = [
        None if c is None else full(c) for c in step.columns(differentiable(step, tensors), step.there_after)
    ]
    return u or [], m, v, top


def fused_apply(numbers: Moments, entry: Entry) -> bool:
    """Add the update to the parameters, in place like the moments; False where there is no kernel for that."""
    g, p, *moments = entry
    tensors = [tensor for column in entry if column is not None for tensor in column]
    if not _fits(numbers, g, tensors) or not _writable(tensors):
        return False
    update_ops.step(numbers, entry, (p, *moments), apply=True)
    return True


def _fits(numbers: Moments, g: Tensors, tensors: Tensors) -> bool:
    """Whether a kernel takes this step: of numbers, and of real tensors of one dtype on one device."""
    if not g or torch.compiler.is_compiling() or _len_torch_dispatch_stack() or not numbers.constant():
        return False
    dtype, device = g[0].dtype, g[0].device
    if dtype not in (torch.float32, torch.float64) or any([tensor.dtype != dtype for tensor in tensors]):
        return False
    if not update_ops.reachable(tensors):  # what is below follows from it
        if any([type(tensor) not in _CLASSES or tensor.device != device for tensor in tensors]):
            return False
    return [tensor.numel() for tensor in g] * (len(tensors) // len(g)) == [t.numel() for t in tensors] and _available(
        device
    )


_CLASSES = (Tensor, torch.nn.Parameter)


@cache
def _available(device: torch.device) -> bool:
    """Whether there are kernels on the device; where there could be, their absence is told, once."""
    if device.type in ("cpu", "cuda") and (reason := _native.why_not(device)) is not None:
        warnings.warn(
            f"optlayers.optim: no fused kernels on {device}, since {reason}; steps are taken in plain torch, with the "
            "same values. fused=False asks for that.",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return device.type in ("cpu", "cuda")


def _writable(tensors: Tensors) -> bool:
    """Whether the kernel may write to the tensors themselves, and nobody records that."""
    if peek_interpreter_stack() is not None or forward_ad._current_level >= 0 or not update_ops.reachable(tensors):
        return False
    recorded = torch.is_grad_enabled() and any([tensor.requires_grad for tensor in tensors])
    return not recorded and all([tensor.is_contiguous() for tensor in tensors])
