"""First and second derivatives of a batch of vector functions, by plain autograd: samples are strangers.

``values`` maps ``(B, n)`` to ``(B, r)``, row by row. Solvers run below all transforms, so no torch.func is needed here,
which costs about half.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Values = Callable[[Tensor], Tensor]


def first(values: Values, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """``c (B, r)`` and the gradient ``(B, n)`` of ``weight' c``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        c = values(x)
        gradient = _grad(c, x, weight)
    return c.detach(), gradient.detach()


def second(values: Values, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``c (B, r)``, its Jacobian ``(B, r, n)`` and the Hessian ``(B, n, n)`` of ``weight' c``."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        c = values(x)
        jacobian = _grad(c, x, _units(c), batched=True)
        gradient = _grad(c, x, weight, create_graph=True)
        hessian = _grad(gradient, x, _units(x), batched=True)
    hessian = hessian.movedim(0, 1).detach()
    return c.detach(), jacobian.movedim(0, 1).detach(), 0.5 * (hessian + hessian.mT)


def _grad(c: Tensor, x: Tensor, weight: Tensor, batched: bool = False, create_graph: bool = False) -> Tensor:
    """``J' weight``; zero where `c` does not depend on `x`, or has no entries."""
    if not c.requires_grad or c.shape[-1] == 0:
        return x.new_zeros(*weight.shape[:-1], x.shape[-1])
    (gradient,) = torch.autograd.grad(
        c, x, weight, retain_graph=True, create_graph=create_graph, is_grads_batched=batched, materialize_grads=True
    )
    return gradient


def _units(v: Tensor) -> Tensor:
    """``(r, B, r)``: every unit vector, for the whole batch."""
    batch, size = v.shape
    return torch.eye(size, dtype=v.dtype, device=v.device).unsqueeze(1).expand(size, batch, size)
