"""Searches for active structure (supports, thresholds, blocks) as ops: their results are constants to every transform.

Where a point is found by looking at values, its derivative comes from a formula on the structure found. A search
decides on values as it goes, which torch.vmap and torch.compile forbid in plain code but not inside an op. Every
search takes and returns tensors with one leading batch dimension, and treats its samples as strangers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import available
from .ops import _direct, _flatten_vmap, _library


def search(
    fake: Callable[..., Any], kernel: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an op of a function on flat batches; `fake` gives empty tensors of the shapes that it returns.

    The arguments are dropped from all derivatives, and the op has none. It is written in plain torch and runs on any
    device; `kernel` takes its place on the CPU where the extension is there. The plain one stays `__wrapped__`.
    """

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        name = fn.__name__
        _library.define(name + torch.library.infer_schema(fn, mutates_args=()))
        _library.impl(name, torch.no_grad()(fn), "CompositeExplicitAutograd")
        native = fn if kernel is None or not available() else kernel
        if native is not fn:
            _library.impl(name, torch.no_grad()(native), "CPU")
        op = getattr(torch.ops.optlayers, name).default
        torch.library.register_fake(f"optlayers::{name}", fake, lib=_library)
        torch.library.register_vmap(f"optlayers::{name}", _flatten_one(op), lib=_library)

        def run(*args):
            args = [arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
            if not _direct(*[arg for arg in args if isinstance(arg, Tensor)]):
                return op(*args)
            with torch.no_grad():
                return native(*args)

        run.__doc__, run.__name__, run.__wrapped__ = fn.__doc__, name, fn  # pyright: ignore[reportAttributeAccessIssue]
        return run

    return decorate


def plain(*tensors: Tensor) -> bool:
    """Whether nothing but autograd's reverse mode may watch, and the extension may be called past the dispatcher."""
    return forward_ad._current_level < 0 and _direct(*tensors)


def _flatten_one(op):
    """The vmap rule of ops, for one result as well as for a tuple of them."""

    def rule(info, in_dims, *args):
        single = False

        def results(*flat):
            nonlocal single
            out = op(*flat)
            single = isinstance(out, Tensor)
            return (out,) if single else out

        out, dims = _flatten_vmap(results)(info, in_dims, *args)
        return (out[0], 0) if single else (out, dims)

    return rule
