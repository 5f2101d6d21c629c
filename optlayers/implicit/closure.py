"""Closure conversion: find the tensors that a function captures, and turn them into arguments.

A tensor that reaches a residual through its closure (a module's weight, say) is invisible to autograd.Function and
would lose its gradient. A function mode sees every torch operation, hence every tensor that enters one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.func import vjp
from torch.overrides import TorchFunctionMode

from .._base import tree
from .tracking import tracked


class _Record(TorchFunctionMode):
    """Collects the tensors that enter operations without being an input or the result of one."""

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()
        self.known = {id(t): t for t in inputs}
        self.found: dict[int, Tensor] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for leaf in tree.leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and id(leaf) not in self.known:
                self.found[id(leaf)] = leaf
        result = func(*args, **kwargs)
        for leaf in tree.leaves(result):
            if isinstance(leaf, Tensor):
                self.known[id(leaf)] = leaf  # held, so that its id is not given to another
        return result


class _Substitute(TorchFunctionMode):
    """Puts other tensors in the place of the captured ones."""

    def __init__(self, replacements: dict[int, Tensor]):
        super().__init__()
        self.replacements = replacements

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = tree.map(
            lambda leaf: self.replacements.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf,
            (args, kwargs or {}),
        )
        return func(*args, **kwargs)


def captured(fn: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors whose derivative may be wanted that `fn` uses and that are neither `inputs` nor made inside it."""
    first = _tensors_used(fn, inputs)
    if not first:
        return []
    # A torch.func transform inside fn wraps tensors behind the mode's back; its wrappers are new at every call.
    again = _tensors_used(fn, inputs)
    return [tensor for key, tensor in first.items() if key in again]


def _tensors_used(fn: Callable[..., Any], inputs: Sequence[Tensor]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}

    floating = [index for index, value in enumerate(inputs) if value.is_floating_point()]

    def recorded(*wrapped: Tensor) -> Any:
        full = list(inputs)
        for index, value in zip(floating, wrapped, strict=True):
            full[index] = value
        with _Record(full) as record:
            result = fn(*full)
        found.update(record.found)
        return result

    # As backward will call it: a residual may itself use autograd.
    vjp(recorded, *[inputs[index] for index in floating])
    return {key: tensor for key, tensor in found.items() if tracked(tensor)}


def convert(fn: Callable[..., Any], tensors: Sequence[Tensor]) -> Callable[..., Any]:
    """`fn` with the captured `tensors` as additional first argument, a list."""

    def converted(values: Sequence[Tensor], *args: Any) -> Any:
        if not tensors:
            return fn(*args)
        with _Substitute({id(t): value for t, value in zip(tensors, values, strict=True)}):
            return fn(*args)

    return converted
