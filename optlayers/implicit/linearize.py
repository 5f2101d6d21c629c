"""Products with a Jacobian, many of them at one point, from one evaluation of the function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import Variable, forward_ad

from .rule import Product, pull_back, pulling, push_forward, pushing
from .tracking import transformed

Fn = Callable[..., list[Tensor]]

# What torch.autograd.grad comes down to once its arguments are checked: a quarter of the cost of a small product.
_run_backward = Variable._execution_engine.run_backward  # pyright: ignore[reportAttributeAccessIssue]


def linearize(fn: Fn, at: Sequence[Tensor], transpose: bool) -> tuple[Product, Product]:
    """``tangent -> J tangent`` and ``cotangent -> J' cotangent``; the one that `transpose` names is the quick one.

    Primal only: nothing is to be differentiated through the products.
    """
    if can_tape():
        return Tape(fn, at).products(transpose)
    # Made here, not at the first product: that may happen inside a vmap, which its wrappers must not outlive.
    values, pull = pulling(fn, at)
    return (lambda u: push_forward(fn, at, u)) if transpose else pushing(values, pull), pull


def can_tape() -> bool:
    """Whether plain autograd will do: no transform, dual number or compiler has to see the function."""
    return not (torch.compiler.is_compiling() or transformed() or forward_ad._current_level >= 0)


class Tape:
    """One evaluation of ``fn(*at, *others)`` for plain tensors, recorded once and replayed for every product.

    ``J`` is the Jacobian in `at`.
    """

    def __init__(self, fn: Fn, at: Sequence[Tensor], others: Sequence[Tensor] = ()):
        self.at, self.others = [value.detach() for value in at], [value.detach() for value in others]
        self.fn = lambda *at: fn(*at, *self.others)
        with torch.enable_grad():
            self._at, self._others = ([v.detach().requires_grad_() for v in part] for part in (self.at, self.others))
            self._values = fn(*self._at, *self._others)
        self._transposed: tuple[list[Tensor], list[Tensor]] | None = None

    def products(self, transpose: bool) -> tuple[Product, Product]:
        """``tangent -> J tangent`` and ``cotangent -> J' cotangent``; the one that `transpose` names costs less."""
        if not transpose:
            self._transpose()  # now: inside a vmap it could not be recorded
        return self._push, self._pull

    def pull_others(self, cotangent: Sequence[Tensor]) -> list[Tensor]:
        """The product of `cotangent` with the Jacobian in the others."""
        return _grad(self._values, self._others, cotangent)

    def _pull(self, cotangent: Sequence[Tensor]) -> list[Tensor]:
        if transformed() and not _only_batched():  # a transform that differentiates must see the function
            return pull_back(self.fn, self.at, cotangent)
        return _grad(self._values, self._at, cotangent)

    def _push(self, tangent: Sequence[Tensor]) -> list[Tensor]:
        if transformed() and (self._transposed is None or not _only_batched()):
            return push_forward(self.fn, self.at, tangent)
        duals, images = self._transpose()
        return _grad(images, duals, tangent)

    def _transpose(self) -> tuple[list[Tensor], list[Tensor]]:
        """Duals, and ``J' duals`` as a function of them, the derivative of which is ``J``."""
        if self._transposed is None:
            with torch.enable_grad():
                duals = [torch.zeros_like(value).requires_grad_() for value in self._values]
                self._transposed = duals, _grad(self._values, self._at, duals, create_graph=True)
        return self._transposed


def _only_batched() -> bool:
    """Whether all transforms at work are vmaps, which the tape can be replayed under: so is_grads_batched works."""
    return all(level.key() == TransformType.Vmap for level in retrieve_all_functorch_interpreters())


def _grad(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangent: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """``J' cotangent``, where outputs may be constants and inputs unused."""
    pairs = [(value, c) for value, c in zip(outputs, cotangent, strict=True) if value.requires_grad]
    if not pairs:
        return [torch.zeros_like(value) for value in inputs]
    values, cotangents = zip(*pairs, strict=True)
    found = _run_backward(
        values, cotangents, True, create_graph, tuple(inputs), allow_unreachable=True, accumulate_grad=False
    )
    return [torch.zeros_like(value) if g is None else g for value, g in zip(inputs, found, strict=True)]
