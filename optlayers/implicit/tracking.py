"""Whether derivatives are being recorded, and how to pause that: all that is needed of torch's inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C import _is_fwd_grad_enabled, _set_fwd_grad_enabled
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.autograd import forward_ad


def recording() -> bool:
    """True if reverse or forward mode may differentiate what is computed now."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


def tracked(tensor: Tensor) -> bool:
    """True if some transform differentiates with respect to `tensor`, or batches it."""
    if tensor.requires_grad or is_functorch_wrapped_tensor(tensor):
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def transformed() -> bool:
    """True if a ``torch.func`` transform may be watching, not autograd alone."""
    return peek_interpreter_stack() is not None


def may_be_differentiated(tensors: Sequence[Tensor]) -> bool:
    """False if nothing differentiates with respect to any of `tensors`, where no transform is watching."""
    return forward_ad._current_level >= 0 or any([t.requires_grad for t in tensors])


class paused:
    """Compute primal values only, in both modes: a context.

    Under nested ``torch.func`` transforms this stops the innermost; the outer ones still record, which costs time and
    changes nothing, because the result is detached. (A class, and torch's own switches: a fraction of the overhead.)
    """

    def __enter__(self) -> None:
        self.reverse, self.forward = torch.is_grad_enabled(), False
        torch._C._set_grad_enabled(False)
        if not torch.compiler.is_compiling():  # forward mode is not compiled, and its switch cannot be traced
            self.forward = _is_fwd_grad_enabled()
            _set_fwd_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        if self.forward:
            _set_fwd_grad_enabled(True)
        torch._C._set_grad_enabled(self.reverse)
