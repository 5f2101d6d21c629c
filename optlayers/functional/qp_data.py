"""The data of a batch of quadratic programs: checked, completed, and brought to one batch dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._base.checks import broadcast_batch, check_shape, check_tensors

NAMES = ("Q", "p", "G", "h", "A", "b", "lb", "ub")
OWN_DIMS = (2, 1, 2, 1, 2, 1, 1, 1)  # dimensions of an argument that are not batch


def flat_data(
    Q: Tensor | None,
    p: Tensor | None,
    G: Tensor | None,
    h: Tensor | None,
    A: Tensor | None,
    b: Tensor | None,
    lb: Tensor | None,
    ub: Tensor | None,
) -> tuple[torch.Size, list[Tensor]]:
    """Check the arguments of a program; return the batch shape, and all eight with one batch dimension.

    It has size 1 where an argument is shared by the batch. Absent constraints have no rows, absent bounds no entries.
    """
    if Q is None or p is None:
        name = "Q" if Q is None else "p"
        raise TypeError(f"solve_qp: {name} is None; expected a tensor (zeros, if the objective has no such term).")
    check_tensors("solve_qp", dict(zip(NAMES, (Q, p, G, h, A, b, lb, ub), strict=True)))
    check_shape("solve_qp", "p", p, ("n",))
    n = p.shape[-1]
    check_shape("solve_qp", "Q", Q, (n, n), "since p has {} entries", n)
    G, h = _constraints("G", G, "h", h, "m", p)
    A, b = _constraints("A", A, "b", b, "k", p)
    for name, bound in (("lb", lb), ("ub", ub)):
        if bound is not None:
            check_shape("solve_qp", name, bound, (n,), "since p has {} entries", n)
    lb, ub = (p.new_empty(0) if bound is None else bound for bound in (lb, ub))
    data = (Q, p, G, h, A, b, lb, ub)
    batch = broadcast_batch("solve_qp", dict(zip(NAMES, zip(data, OWN_DIMS, strict=True), strict=True)))
    return batch, [_flatten(tensor, own, batch) for tensor, own in zip(data, OWN_DIMS, strict=True)]


def _constraints(
    matrix: str, C: Tensor | None, vector: str, c: Tensor | None, rows: str, p: Tensor
) -> tuple[Tensor, Tensor]:
    """A matrix and its right-hand side: both, or neither, which is no rows."""
    if C is None and c is None:
        return p.new_empty(0, p.shape[-1]), p.new_empty(0)
    if C is None or c is None:
        given, other = (vector, matrix) if C is None else (matrix, vector)
        raise ValueError(f"solve_qp: {given} is given without {other}; give both.")
    check_shape("solve_qp", matrix, C, (rows, p.shape[-1]), "since p has {} entries", p.shape[-1])
    check_shape("solve_qp", vector, c, (C.shape[-2],), f"since {matrix} has {{}} rows", C.shape[-2])
    return C, c


def _flatten(tensor: Tensor, own: int, batch: torch.Size) -> Tensor:
    leading = tensor.dim() - own
    if leading == 0:
        return tensor.unsqueeze(0)
    if leading == 1 and len(batch) == 1 and tensor.shape[0] in (1, batch[0]):
        return tensor
    shape = tensor.shape[leading:]
    if tensor.shape[:leading].numel() == 1:
        return tensor.reshape((1, *shape))
    return tensor.expand((*batch, *shape)).reshape((batch.numel(), *shape))


def expanded(tensors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Shared tensors as batches of `count`, without a copy."""
    return [t if t.shape[0] == count else t.expand(count, *t.shape[1:]) for t in tensors]
