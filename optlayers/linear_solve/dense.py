"""Dense factorizations of the whole Jacobian: LU, Cholesky, LDL."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._base.loop import surely_none
from .._base.threads import one_thread
from .correction import CorrectingSolver, Correction, FlatMap, System, unrecorded

Substitution = Callable[[Tensor], Tensor]

BLOCK_ELEMENTS = 1 << 20  # 8 MB in float64: larger blocks were slower, as they leave the cache


@dataclass(frozen=True)
class DenseSolver(CorrectingSolver):
    """Builds ``A`` as an N x N matrix per sample, over all leaves of the tree together, and factors it.

    Costs N products with ``A`` (by vmap, or one by one where ``matvec`` refuses it), B N^2 memory and B N^3 flops. A
    sample whose matrix is singular or not finite comes back as NaN, unconverged. Backward stable, so besides ``rtol``
    a residual of some ``eps ||A|| ||x||`` counts as converged, unless that comes near ``||b||``.
    """

    @abstractmethod
    def factor(self, matrix: Tensor, rhs: Tensor) -> tuple[Substitution, Tensor]:
        """The solve ``(*batch, N, 1) -> (*batch, N, 1)`` of a matrix ``(*batch, N, N)``, and where it is singular."""

    def prepare(self, system: System) -> Callable[[Tensor, Tensor, int], Correction]:
        matrix = materialise(system.matvec, system.rhs)
        with torch.no_grad():
            norm = torch.linalg.matrix_norm(matrix)
        sound = self._sound(matrix, norm, system.rhs) if unrecorded(norm) else None
        if sound is not None:
            return sound
        identity = torch.eye(system.size, dtype=matrix.dtype, device=matrix.device)
        bad = ~torch.isfinite(matrix).flatten(-2).all(-1)
        matrix = torch.where(bad[..., None, None], identity, matrix)
        substitute, singular = self.factor(matrix, system.rhs)
        if not surely_none(singular):
            # Again with the identity in their place: masking the result only would leave NaN in shared gradients.
            matrix = torch.where(singular[..., None, None], identity, matrix)
            substitute, _ = self.factor(matrix, system.rhs)
        bad = bad | singular

        def correct(r: Tensor, target: Tensor, spent: int) -> Correction:
            step = torch.where(bad[..., None], torch.nan, refined(matrix, substitute, r))
            return Correction(step, torch.ones_like(bad, dtype=torch.int64), torch.zeros_like(bad), norm)

        return correct

    def _sound(self, matrix: Tensor, norm: Tensor, rhs: Tensor) -> Callable[[Tensor, Tensor, int], Correction] | None:
        """The same without masks, if it can be seen that every matrix is finite and regular."""
        if not bool(torch.isfinite(norm).all()):
            return None
        substitute, singular = self.factor(matrix, rhs)
        if bool(singular.any()):
            return None

        def correct(r: Tensor, target: Tensor, spent: int) -> Correction:
            once = torch.ones_like(norm, dtype=torch.int64)
            return Correction(refined(matrix, substitute, r), once, singular, norm)

        return correct


def refined(matrix: Tensor, substitute: Substitution, r: Tensor) -> Tensor:
    """Substitution, and one step of iterative refinement."""
    rhs = r[..., None]
    step = substitute(rhs)
    return (step + substitute(rhs - matrix @ step)).squeeze(-1)


@dataclass(frozen=True)
class LU(DenseSolver):
    """LU with partial pivoting: any square ``A``. Derivatives of a direct call are exact, at any order."""

    def factor(self, matrix: Tensor, rhs: Tensor) -> tuple[Substitution, Tensor]:
        with one_thread(matrix):
            lu, pivots, info = torch.linalg.lu_factor_ex(matrix)
        return lambda r: torch.linalg.lu_solve(lu, pivots, r), info != 0


@dataclass(frozen=True)
class Cholesky(DenseSolver):
    """Cholesky: ``A`` symmetric positive definite, of which the lower triangle is read; others are unconverged.

    Derivatives of a direct call are exact, at any order.
    """

    def factor(self, matrix: Tensor, rhs: Tensor) -> tuple[Substitution, Tensor]:
        lower, info = torch.linalg.cholesky_ex(matrix)
        return lambda r: torch.cholesky_solve(r, lower), info != 0


@dataclass(frozen=True)
class LDL(LU):
    """Bunch-Kaufman ``L D L'``: ``A`` symmetric, indefinite allowed, of which the lower triangle is read.

    PyTorch has neither derivative nor batching rule for it, so where one may be asked for LU serves in its place.
    """

    def factor(self, matrix: Tensor, rhs: Tensor) -> tuple[Substitution, Tensor]:
        if may_record(matrix, rhs):
            return super().factor(matrix, rhs)
        ld, pivots, info = torch.linalg.ldl_factor_ex(matrix)
        return lambda r: torch.linalg.ldl_solve(ld, pivots, r), info != 0


def may_record(*tensors: Tensor) -> bool:
    """Whether operations on the tensors may be recorded, for a derivative, by a transform or by the compiler."""
    # Under torch.func neither requires_grad nor a tangent shows at every level, so any transform counts.
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    taped = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return taped or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def materialise(matvec: FlatMap, like: Tensor) -> Tensor:
    """The ``(*batch, N, N)`` matrix of a flat map; the N unit vectors are shared by the batch."""
    size = like.shape[-1]

    def column(unit: Tensor) -> Tensor:
        return matvec(unit.expand(like.shape))

    units = torch.eye(size, dtype=like.dtype, device=like.device)
    # Under vmap a product with one matrix per sample copies it for every unit vector: blocks of them bound that.
    width = max(BLOCK_ELEMENTS // max(like.numel() * size, 1), 1)
    try:
        return torch.cat([torch.vmap(column, out_dims=-1)(block) for block in units.split(width)], dim=-1)
    except RuntimeError:  # data-dependent control flow, autograd.grad, numpy inside: an honest error comes up again
        return torch.stack([column(unit) for unit in units], dim=-1)
