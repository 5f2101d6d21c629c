"""The KKT conditions of a smooth program as a root, and the linear solver that fits them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vjp

from .._base.loop import can_read, surely_none
from .._base.numeric import matvec
from ..linear_solve import ConvergenceWarning
from .rule import Rule

Values = Callable[[Tensor, Sequence[Tensor]], Tensor]


def kkt_residual(
    values: Values, k: int, point: Sequence[Tensor], args: Sequence[Tensor], active: Tensor
) -> list[Tensor]:
    """The KKT residual on a fixed active set (IPC-15), for ``point = (x, y, z)``.

    Args:
        values: ``values(x, args)`` to ``(B, 1 + k + m)``: objective, equalities, inequalities.
        active: ``(B, m)``: an active constraint is an equation, an inactive one says that its multiplier is zero.
    """
    x, y, z = point
    c, pull = vjp(lambda x: values(x, args), x)[:2]
    (gradient,) = pull(torch.cat([torch.ones_like(c[:, :1]), y, z], -1))
    return [gradient, c[:, 1 : 1 + k], torch.where(active, c[:, 1 + k :], z)]


class KKTRule(Rule):
    """The KKT system of a batch of programs: block diagonal, each block solved by an inverse from the forward pass.

    The arguments are those of the functions, then the active set, the Hessian of the Lagrangian, the Jacobian of the
    constraints and the inverse of the KKT matrix that they make up on the active set (IPC-10), at the point.
    """

    def __init__(self, values: Values, k: int, differentiable: Sequence[bool]):
        self.values = values
        self.k = k
        self.differentiable = [*differentiable, False, False, False, False]

    def residual(self, x, args):
        return kkt_residual(self.values, self.k, x, args[:-4], args[-4])

    def solve_linear(self, x, args, rhs, transpose):
        active, hessian, jacobian, inverse = args[-4:]
        r_x, r_y, r_z = rhs
        A, G = jacobian[:, : self.k], jacobian[:, self.k :]
        if not transpose:  # rows of inactive constraints read d_z = r_z, and d_z enters stationarity
            r_x = r_x - matvec(G.mT, torch.where(active, 0.0, r_z))
        right = torch.cat([r_x, r_y, torch.where(active, r_z, 0.0)], -1)
        sizes = [part.shape[-1] for part in rhs]

        def product(d: Tensor) -> Tensor:
            d_x, d_y, d_z = d.split(sizes, -1)
            top = matvec(hessian, d_x) + matvec(A.mT, d_y) + matvec(G.mT, torch.where(active, d_z, 0.0))
            return torch.cat([top, matvec(A, d_x), torch.where(active, matvec(G, d_x), 0.0)], -1)

        d = matvec(inverse, right)
        for _ in range(2):  # the inverse may be that of one Newton step before
            d = d + matvec(inverse, right - product(d))
        _warn_if_singular(right - product(d), right)
        d_x, d_y, d_z = d.split(sizes, -1)
        inactive = r_z - matvec(G, d_x) if transpose else r_z
        return [d_x, d_y, torch.where(active, d_z, inactive)]


def _warn_if_singular(error: Tensor, rhs: Tensor) -> None:
    """Warn where a KKT system has no solution, hence the point no derivative."""
    if rhs.shape[-1] == 0:
        return
    size = rhs.abs().amax(-1)
    relative = error.abs().amax(-1) / torch.where(size > 0, size, 1.0)
    singular = relative > (1e-6 if rhs.dtype == torch.float64 else 1e-2)
    if surely_none(singular) or not can_read(singular):
        return
    warnings.warn(
        f"minimise: no exact derivative exists for samples {singular.nonzero().flatten().tolist()[:10]}: their KKT "
        f"matrix is singular (the solution or its multipliers are not unique), with relative residual "
        f"{relative.max().item():.1e}. The least-squares one of least norm was used. Make the objective strictly "
        f"convex along the constraints, or remove dependent constraints.",
        ConvergenceWarning,
        stacklevel=2,
    )
