"""Whether derivatives are being recorded, and how to pause that: all that is needed of torch's inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._C._functorch import TransformType, is_functorch_wrapped_tensor
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad


def recording() -> bool:
    """True if reverse or forward mode may differentiate what is computed now."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


def tracked(tensor: Tensor) -> bool:
    """True if some transform differentiates with respect to `tensor`, or batches it."""
    if tensor.requires_grad or is_functorch_wrapped_tensor(tensor):
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


@contextmanager
def paused() -> Iterator[None]:
    """Compute primal values only, in both modes.

    Under nested ``torch.func`` transforms this stops the innermost; the outer ones still record, which costs time and
    changes nothing, because the result is detached.
    """
    if torch.compiler.is_compiling():  # forward mode is not compiled, and its switch cannot be traced
        with torch.no_grad():
            yield
    else:
        with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
            yield


def forbid_nested_forward(name: str) -> None:
    """Raise if two forward-mode transforms are active.

    torch disables forward mode inside ``Function.jvp``, so that a jvp of a jvp loses its mixed terms without a word.
    """
    levels = [level for level in retrieve_all_functorch_interpreters() if level.key() == TransformType.Jvp]
    if len(levels) > 1:
        raise RuntimeError(
            f"{name}: forward mode over forward mode (jacfwd of jacfwd, jvp of jvp) is not supported by "
            f"torch.autograd.Function and would be wrong. Use reverse mode for one of the two: "
            f"torch.func.hessian, jacfwd(jacrev(f)), jacrev(jacfwd(f)) and jacrev(jacrev(f)) are all exact."
        )
