"""The data of a batch of quadratic programs: checked, completed, and brought to one batch dimension for the solver."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._base.checks import broadcast_batch, check_shape, check_tensors

NAMES = ("Q", "p", "G", "h", "A", "b", "lb", "ub")
OWN_DIMS = (2, 1, 2, 1, 2, 1, 1, 1)  # dimensions of an argument that are not batch


def complete_data(
    Q: Tensor | None,
    p: Tensor | None,
    G: Tensor | None,
    h: Tensor | None,
    A: Tensor | None,
    b: Tensor | None,
    lb: Tensor | None,
    ub: Tensor | None,
) -> tuple[torch.Size, list[Tensor]]:
    """Check the arguments of a program; return the batch shape, and all eight, each in its own shape.

    Absent constraints become ones without rows, absent bounds ones without entries.
    """
    if Q is None or p is None:
        name = "Q" if Q is None else "p"
        raise TypeError(f"solve_qp: {name} is None; expected a tensor (zeros, if the objective has no such term).")
    check_tensors("solve_qp", dict(zip(NAMES, (Q, p, G, h, A, b, lb, ub), strict=True)))
    check_shape("solve_qp", "p", p, ("n",))
    n = p.shape[-1]
    for name, bound in (("lb", lb), ("ub", ub)):
        if bound is not None and bound.shape[-1:] != (n,):
            check_shape("solve_qp", name, bound, (n,), "since p has {} entries", n)
    G, h = _constraints("G", G, "h", h, p)
    A, b = _constraints("A", A, "b", b, p)
    data = [Q, p, G, h, A, b, p.new_empty(0) if lb is None else lb, p.new_empty(0) if ub is None else ub]
    batch = _common_batch(data)
    return _closer_look(data) if batch is None else batch, data


def _constraints(matrix: str, C: Tensor | None, vector: str, c: Tensor | None, p: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix and its right-hand side: both, or neither, which is no rows."""
    if C is None and c is None:
        return p.new_empty(0, p.shape[-1]), p.new_empty(0)
    if C is None or c is None:
        given, other = (vector, matrix) if C is None else (matrix, vector)
        raise ValueError(f"solve_qp: {given} is given without {other}; give both.")
    return C, c


def _common_batch(data: Sequence[Tensor]) -> torch.Size | None:
    """The batch shape in the simple case, at a tenth of the cost of the closer look: every argument has it or none."""
    batch = torch.Size()
    sizes = []
    for tensor, own in zip(data, OWN_DIMS, strict=True):
        shape = tensor.shape
        if len(shape) > own:
            leading = shape[:-own]
            if leading != batch:
                if batch:
                    return None
                batch = leading
            shape = shape[-own:]
        elif len(shape) < own:
            return None
        sizes += shape
    n, columns, size, m, n_G, rows, k, n_A, values, lower, upper = sizes
    fits = n == columns == size == n_G == n_A and m == rows and k == values and lower in (0, n) and upper in (0, n)
    return batch if fits else None


def _closer_look(data: Sequence[Tensor]) -> torch.Size:
    """Broadcast the leading dimensions, or say what does not fit."""
    Q, p, G, h, A, b = data[:6]
    n = p.shape[-1]
    entries, rows = "since p has {} entries", "since {} has {{}} rows"
    check_shape("solve_qp", "Q", Q, (n, n), entries, n)
    for matrix, C, vector, c, letter in (("G", G, "h", h, "m"), ("A", A, "b", b, "k")):
        check_shape("solve_qp", matrix, C, (letter, n), entries, n)
        check_shape("solve_qp", vector, c, (C.shape[-2],), rows.format(matrix), C.shape[-2])
    named = dict(zip(NAMES, zip(data, OWN_DIMS, strict=True), strict=True))
    return broadcast_batch("solve_qp", named)


def flatten(tensors: Sequence[Tensor], own_dims: Sequence[int], batch: torch.Size) -> list[Tensor]:
    """Tensors that broadcast over `batch`, with one batch dimension in place of it, expanded where they are shared."""
    return [_flatten(tensor, own, batch) for tensor, own in zip(tensors, own_dims, strict=True)]


def _flatten(tensor: Tensor, own: int, batch: torch.Size) -> Tensor:
    shape = tensor.shape
    leading = len(shape) - own
    if leading == 1 and shape[:1] == batch:
        return tensor
    if shape[:leading].numel() == 1:
        return tensor.reshape((1, *shape[leading:])).expand((batch.numel(), *shape[leading:]))
    return tensor.expand((*batch, *shape[leading:])).reshape((batch.numel(), *shape[leading:]))


def unflatten(tensors: Sequence[Tensor], batch: torch.Size) -> Sequence[Tensor]:
    """Tensors with one batch dimension, with `batch` in place of it."""
    return tensors if len(batch) == 1 else [tensor.reshape((*batch, *tensor.shape[1:])) for tensor in tensors]
