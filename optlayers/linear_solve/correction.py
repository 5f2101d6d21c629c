"""The frame of every solver that measures its result: scaling, start, true residual, verdict per sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._base import tree
from .._base.loop import can_read, surely_none
from .._base.tree import Tree
from .operator import Operator
from .solver import LinearSolution, LinearSolver

FlatMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class System:
    """``A x = rhs`` (LIN-1) seen flat: ``A`` maps ``(*batch, N)`` to ``(*batch, M)``.

    With ``least_squares`` the system to be solved is ``A' A x = A' rhs``, and its residual is the one that counts.
    """

    matvec: FlatMap
    rhs: Tensor  # (*batch, M)
    start: Tensor | None  # (*batch, N)
    unravel: Callable[[Tensor], Tree]  # of x
    size: int  # N
    precondition: FlatMap = lambda v: v
    rmatvec: FlatMap = lambda v: v  # given by the one method that uses it
    least_squares: bool = False
    measure: FlatMap = lambda v: length(v)

    def residual(self, defect: Tensor) -> Tensor:
        """What has to vanish at the solution, given the defect ``rhs - A x``."""
        return self.rmatvec(defect) if self.least_squares else defect

    def gap(self, defect: Tensor) -> Tensor:
        """(*batch): the length of the residual, given the defect."""
        return self.measure(self.residual(defect))


class Correction(NamedTuple):
    """What a method proposes for ``A step = r`` (LIN-2) with a residual ``r`` of length 1."""

    step: Tensor  # (*batch, N)
    iterations: Tensor  # (*batch) int64
    claimed: Tensor  # (*batch) bool: by the method's own reckoning the target is reached
    matrix_norm: Tensor | float = 0.0  # (*batch) of A where it is known: rounding leaves a residual in proportion


@dataclass(frozen=True)
class CorrectingSolver(LinearSolver):
    """A solver that improves ``x`` by corrections and judges it by the true residual, (LIN-3).

    Args:
        rtol, atol: a sample has converged if ``||b - A x|| <= max(rtol ||b||, atol)``. Without ``rtol`` it is
            ``eps ** (2 / 3)``: 3.7e-11 in float64, 2.4e-5 in float32.
        ridge: solve ``(A + ridge I) x = b`` instead.
    """

    rtol: float | None = None
    atol: float = 0.0
    ridge: float = field(default=0.0, kw_only=True)

    @abstractmethod
    def prepare(self, system: System) -> Callable[[Tensor, Tensor, int], Correction]:
        """``correct(r, target, spent)``: bring ``||r - A step||`` below ``target``; ``spent`` iterations are used."""

    def system(self, operator: Operator, b: Tree, init: Tree | None) -> System:
        """The flat system, ridge included."""
        rhs, unravel = self._ravel("b", b)
        start = None if init is None else self._ravel("init", init)[0]
        if start is not None and start.shape != rhs.shape:
            raise ValueError(
                f"linear_solve.{type(self).__name__}: init holds {start.shape[-1]} unknowns but b {rhs.shape[-1]} "
                "equations; the system must be square (NormalCG alone takes others)."
            )
        matvec = self._flat("matvec", operator.shifted(self.ridge).matvec, unravel, rhs.shape[-1])
        return System(matvec, rhs, start, unravel, rhs.shape[-1])

    def solve(self, operator: Operator, b: Tree, init: Tree | None = None) -> LinearSolution:
        system = self.system(operator, b, init)
        rhs = system.rhs
        ordinary = system.start is None and not system.least_squares and is_ordinary(rhs)
        if ordinary:  # no mask is needed
            system = replace(system, measure=plain_length)
            known = torch.ones_like(rhs[..., 0], dtype=torch.bool)
        else:
            known = torch.isfinite(rhs).all(-1)
            if system.start is not None:
                known = known & torch.isfinite(system.start).all(-1)
            # Invalid samples are solved as zero and marked at the end: so their NaN reaches nobody's gradient.
            rhs = torch.where(known[..., None], rhs, 0.0)
        size = system.gap(rhs)
        zero = (size == 0) | ~known
        rtol = torch.finfo(rhs.dtype).eps ** (2 / 3) if self.rtol is None else self.rtol
        target = (rtol * size).clamp(min=self.atol)

        correct = self.prepare(system)
        if system.start is None:
            x, defect = rhs.new_zeros((*rhs.shape[:-1], system.size)), rhs
        else:
            x = torch.where(zero[..., None], 0.0, system.start.detach())
            defect = torch.where(zero[..., None], 0.0, rhs - system.matvec(x))
        gap, spent = system.gap(defect), torch.zeros_like(known, dtype=torch.int64)
        # A recursively updated residual drifts from the true one. Where a method claims to be there and is not, it
        # gets a second round, on the true residual.
        for again in range(2):
            scale = torch.where(gap > 0, gap, 1.0)
            used = int(spent.max()) if again and can_read(spent) and spent.numel() else 0
            correction = correct(defect / scale[..., None], target / scale, used)
            x = x + scale[..., None] * correction.step  # (LIN-2)
            defect = rhs - system.matvec(x)
            gap, spent = system.gap(defect), spent + correction.iterations
            reached = gap <= target
            if ordinary and bool(reached.all()):
                return LinearSolution(system.unravel(x), gap / size, reached, spent)
            doubtful = correction.claimed & ~reached
            if not can_read(doubtful) or surely_none(doubtful):
                break
            defect = torch.where(doubtful[..., None], defect, 0.0)

        converged = reached | self._at_rounding(gap, correction.matrix_norm, length(x), size)
        x = torch.where(zero[..., None], 0.0, x)
        x = torch.where(known[..., None], x, torch.nan)
        residual = torch.where(zero, 0.0, gap / torch.where(zero, 1.0, size))
        residual = torch.where(known, residual, torch.nan)
        return LinearSolution(system.unravel(x), residual, known & (zero | converged), spent)

    @staticmethod
    def _at_rounding(gap: Tensor, matrix_norm: Tensor | float, x: Tensor, size: Tensor) -> Tensor:
        """(LIN-4) Backward stable: a residual of some ``eps ||A|| ||x||`` is the best there is, at any conditioning.

        But where that comes near ``||b||`` itself, ``A`` is all but singular and ``x`` means nothing.
        """
        eps = torch.finfo(gap.dtype).eps
        rounding = eps * matrix_norm * x
        return (gap <= 8 * rounding) & (rounding < eps ** (1 / 3) * size)

    def _ravel(self, name: str, value: Tree) -> tuple[Tensor, Callable[[Tensor], Tree]]:
        flat, unravel = tree.ravel(value, self.batch_ndim)
        if flat.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"linear_solve.{type(self).__name__}: {name} is {flat.dtype}; give float32 or float64.")
        if isinstance(value, Tensor) and value.ndim == self.batch_ndim + 1:  # flat as it is
            return flat, lambda v: v if v.dtype == flat.dtype else v.to(flat.dtype)
        return flat, unravel

    def _flat(self, name: str, fn: Callable[[Tree], Tree], unravel: Callable[[Tensor], Tree], rows: int) -> FlatMap:
        """The map on trees as one on ``(*batch, N)`` tensors, with ``rows`` outputs."""

        def flat(v: Tensor) -> Tensor:
            image = fn(unravel(v))
            if isinstance(image, Tensor) and image.shape == v.shape and v.shape[-1] == rows:
                return image
            image, _ = tree.ravel(image, self.batch_ndim)
            if image.shape != (*v.shape[:-1], rows):
                raise ValueError(
                    f"linear_solve.{type(self).__name__}: {name} gave {tuple(image.shape)} numbers (batch, flattened) "
                    f"where {(*v.shape[:-1], rows)} belong."
                )
            return image

        return flat


@torch.no_grad()  # rather than detach, which batched gradients of torch.autograd (is_grads_batched) do not know
def length(v: Tensor) -> Tensor:
    """Euclidean norm over the last dimension, safe from overflow, without derivative: it only scales and judges."""
    return tree.norm(v, v.ndim - 1)


def unrecorded(tensor: Tensor) -> bool:
    """Whether plain values are being computed, which may be read and changed in place: neither a derivative in any
    mode nor a transform nor the compiler is watching."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return False
    return forward_ad._current_level < 0 and can_read(tensor)


def plain_length(v: Tensor) -> Tensor:
    """The same without guards, for vectors of ordinary size where nothing is recorded."""
    return torch.linalg.vector_norm(v, dim=-1)


def is_ordinary(v: Tensor) -> bool:
    """Whether it can be seen that all samples are finite, and that no square in their lengths over- or underflows."""
    sizes = plain_length(v)
    bounds = torch.finfo(v.dtype)
    return unrecorded(sizes) and bool(((sizes > bounds.tiny**0.5 / bounds.eps) & (sizes < torch.inf)).all())
