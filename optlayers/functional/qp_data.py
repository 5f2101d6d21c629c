"""The data of a batch of quadratic programs: checked, completed, and brought to one batch dimension for the solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.checks import broadcast_batch, check_shape, check_tensors
from .._base.loop import surely_none

NAMES = ("Q", "p", "G", "h", "A", "b", "lb", "ub")
OWN_DIMS = (2, 1, 2, 1, 2, 1, 1, 1)  # dimensions of an argument that are not batch


class Batch(NamedTuple):
    """The batch dimensions of a program, and the way from its arguments to arrays with one batch dimension and back."""

    shape: torch.Size
    flat: bool  # every argument has them, and they are one: nothing is to be done

    def flatten(self, tensors: Sequence[Tensor], own_dims: Sequence[int]) -> list[Tensor]:
        """Tensors that broadcast over the batch, with one dimension in place of it, expanded where they are shared."""
        if self.flat:
            return list(tensors)
        return [self._flatten(tensor, own) for tensor, own in zip(tensors, own_dims, strict=True)]

    def _flatten(self, tensor: Tensor, own: int) -> Tensor:
        leading, shape = tensor.shape[:-own], tensor.shape[-own:]
        count = self.shape.numel()
        if leading == self.shape:
            return tensor if len(leading) == 1 else tensor.reshape((count, *shape))
        if leading.numel() == 1:
            return tensor.reshape((1, *shape)).expand((count, *shape))
        return tensor.expand((*self.shape, *shape)).reshape((count, *shape))

    def unflatten(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Tensors with one batch dimension, with those of the batch in place of it."""
        if len(self.shape) == 1:
            return tensors
        return [tensor.reshape((*self.shape, *tensor.shape[1:])) for tensor in tensors]

    def takes(self, leading: torch.Size) -> bool:
        """Whether something with these batch dimensions broadcasts to the batch."""
        try:
            return torch.broadcast_shapes(leading, self.shape) == self.shape
        except RuntimeError:
            return False

    def shares(self, tensor: Tensor, own: int) -> bool:
        """Whether one value of an argument is that of all samples, which are several."""
        leading = tensor.shape[:-own]
        return leading != self.shape and leading.numel() == 1

    def reduce(self, gradient: Tensor, like: Tensor) -> Tensor:
        """A gradient with one batch dimension, or one that is summed over all samples, in the shape of its argument."""
        if gradient.shape == like.shape:
            return gradient
        if gradient.numel() == like.numel():
            return gradient.reshape(like.shape)
        return gradient.reshape((*self.shape, *gradient.shape[1:])).sum_to_size(like.shape)


def complete_data(
    Q: Tensor | None,
    p: Tensor | None,
    G: Tensor | None,
    h: Tensor | None,
    A: Tensor | None,
    b: Tensor | None,
    lb: Tensor | None,
    ub: Tensor | None,
) -> tuple[Batch, list[Tensor]]:
    """Check the arguments of a program; return their batch, and all eight, each in its own shape.

    Absent constraints become ones without rows, absent bounds ones without entries.
    """
    if Q is None or p is None:
        name = "Q" if Q is None else "p"
        raise TypeError(f"solve_qp: {name} is None; expected a tensor (zeros, if the objective has no such term).")
    given = [t for t in (Q, p, G, h, A, b, lb, ub) if t is not None]
    if not all([isinstance(t, Tensor) for t in given]) or len({(t.dtype, t.device) for t in given}) > 1:
        check_tensors("solve_qp", dict(zip(NAMES, (Q, p, G, h, A, b, lb, ub), strict=True)))  # it says which, and why
    check_tensors("solve_qp", {"p": p})
    check_shape("solve_qp", "p", p, ("n",))
    G, h = _constraints("G", G, "h", h, p)
    A, b = _constraints("A", A, "b", b, p)
    n = p.shape[-1]
    for name, bound in (("lb", lb), ("ub", ub)):
        if bound is not None and bound.shape[-1:] != (n,):
            check_shape("solve_qp", name, bound, (n,), "since p has {} entries", n)
    lead = p.shape[:-1]  # absent data have the batch dimensions of p, mostly the whole batch: nothing to expand then
    data = [Q, p, G, h, A, b, *[p.new_empty(*lead, 0) if bound is None else bound for bound in (lb, ub)]]
    batch = Batch(lead, True) if _is_flat(data) else _common_batch(data)
    return _closer_look(data) if batch is None else batch, data


def _is_flat(data: Sequence[Tensor]) -> bool:
    """Whether every argument has the same single batch dimension: what layers pass, and what has to be quick."""
    Q, p, G, h, A, b, lb, ub = data
    if p.dim() != 2 or h.dim() != 2 or b.dim() != 2:
        return False
    (B, n), m, k = p.shape, h.shape[1], b.shape[1]
    bounds = lb.shape[:-1] == ub.shape[:-1] == (B,)
    return (
        bounds
        and h.shape == (B, m)
        and b.shape == (B, k)
        and Q.shape == (B, n, n)
        and G.shape == (B, m, n)
        and A.shape == (B, k, n)
    )


def _constraints(matrix: str, C: Tensor | None, vector: str, c: Tensor | None, p: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix and its right-hand side: both, or neither, which is no rows."""
    if C is None and c is None:
        lead = p.shape[:-1]
        return p.new_empty(*lead, 0, p.shape[-1]), p.new_empty(*lead, 0)
    if C is None or c is None:
        given, other = (vector, matrix) if C is None else (matrix, vector)
        raise ValueError(f"solve_qp: {given} is given without {other}; give both.")
    return C, c


def _common_batch(data: Sequence[Tensor]) -> Batch | None:
    """The batch in the simple case, at a tenth of the cost of the closer look: every argument has all of it or none."""
    batch, everywhere = torch.Size(), True
    sizes = []
    for tensor, own in zip(data, OWN_DIMS, strict=True):
        shape = tensor.shape
        if len(shape) > own:
            leading = shape[:-own]
            if leading != batch:
                if batch:
                    return None
                batch, everywhere = leading, not sizes
            shape = shape[-own:]
        elif len(shape) < own:
            return None
        else:
            everywhere = False
        sizes += shape
    n, columns, size, m, n_G, rows, k, n_A, values, lower, upper = sizes
    fits = n == columns == size == n_G == n_A and m == rows and k == values and lower in (0, n) and upper in (0, n)
    return Batch(batch, everywhere and len(batch) == 1) if fits else None


def _closer_look(data: Sequence[Tensor]) -> Batch:
    """Broadcast the leading dimensions, or say what does not fit."""
    Q, p, G, h, A, b = data[:6]
    n = p.shape[-1]
    entries, rows = "since p has {} entries", "since {} has {{}} rows"
    check_shape("solve_qp", "Q", Q, (n, n), entries, n)
    for matrix, C, vector, c, letter in (("G", G, "h", h, "m"), ("A", A, "b", b, "k")):
        check_shape("solve_qp", matrix, C, (letter, n), entries, n)
        check_shape("solve_qp", vector, c, (C.shape[-2],), rows.format(matrix), C.shape[-2])
    named: dict[str, tuple[Tensor, int]] = {
        name: (tensor, own) for name, tensor, own in zip(NAMES, data, OWN_DIMS, strict=True)
    }
    return Batch(broadcast_batch("solve_qp", named), False)


def surely_at_most(values: Tensor, bound: float) -> bool:
    """True only where values ``(B,)`` can be read and none exceeds `bound`; a few are read without torch, for speed."""
    if values.shape[0] <= 64 and not torch.compiler.is_compiling():
        try:
            return all([value <= bound for value in values.tolist()])
        except RuntimeError:  # under a transform, or of a fake tensor
            pass
    return surely_none(~(values <= bound))
