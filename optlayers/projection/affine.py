"""Projection onto hyperplanes, half-spaces, affine sets and polyhedra: affine maps on the active constraints."""

from __future__ import annotations

import torch
from torch import Tensor

from .._base.checks import broadcast_batch, check_shape
from .._base.numeric import dot, matvec, norm
from .._base.status import Status
from .._native.ops import qp_solve
from ._arguments import Number, check_point, flat, per_sample, vectors

# Settings of the QP engine for polyhedra: the active set is what is taken from it, not the point.
_EPS = {torch.float32: 1e-6, torch.float64: 1e-9}
_MAX_STEPS = 100


def hyperplane(x: Tensor, a: Tensor, b: Number) -> Tensor:
    r"""Project onto a hyperplane.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad a^\top y = b

    Args:
        x: ``(*, n)`` float32 or float64.
        a: ``(*, n)``, not zero unless ``b`` is.
        b: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples that no point satisfies.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit.
    """
    x, a, b, feasible = _normal("projection.hyperplane", x, a, b)
    moved = x - (dot(a, x) - b) / torch.where(feasible, dot(a, a), 1.0) * a
    return torch.where(feasible | (b == 0), moved, torch.nan)


def halfspace(x: Tensor, a: Tensor, b: Number) -> Tensor:
    r"""Project onto a half-space.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad a^\top y \le b

    On the boundary the derivative is that of the inside, the identity.

    Args:
        x: ``(*, n)`` float32 or float64.
        a: ``(*, n)``, not zero unless ``b`` is nonnegative.
        b: a number, or ``(*)``; it may be ``inf``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples that no point satisfies.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit.
    """
    x, a, b, feasible = _normal("projection.halfspace", x, a, b)
    excess = dot(a, x) - b
    moved = x - torch.where(excess > 0, excess, 0.0) / torch.where(feasible, dot(a, a), 1.0) * a
    return torch.where(feasible | (b >= 0), moved, torch.nan)


def _normal(function: str, x: Tensor, a: Tensor, b: Number) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments in one batch, ``a`` and ``b`` scaled by a constant to ``|a| = 1``, and where ``a`` is not zero."""
    check_point(function, x, a=a, b=b)
    x, a = vectors(function, x, a=a)
    b, x = per_sample(function, "b", b, x)
    length = norm(a.detach())
    scale = torch.where(length > 0, length, 1.0)
    return x, a / scale, b / scale, length > 0


def affine(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    r"""Project onto an affine set.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad Ay = b

    Rows may depend on each other. The derivatives with respect to A and b are then those of the least-norm multiplier,
    for changes that leave the rank as it is.

    Args:
        x: ``(*, n)`` float32 or float64.
        A, b: ``(*, k, n)`` and ``(*, k)``; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples that no point satisfies.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit.
    """
    check_point("projection.affine", x, A=A, b=b)
    _check_rows("projection.affine", x, "A", A, "b", b)
    broadcast_batch("projection.affine", {"x": (x, 1), "A": (A, 2), "b": (b, 1)})
    return _onto_rows(x, A, b, x.dtype)


def _check_rows(function: str, x: Tensor, matrix: str, A: Tensor, vector: str, b: Tensor) -> None:
    n = x.shape[-1]
    check_shape(function, matrix, A, ("k", n), "because x has {} entries", n)
    rows = A.shape[-2]
    check_shape(function, vector, b, (rows,), f"because {matrix} has {{}} rows", rows)


def _onto_rows(x: Tensor, A: Tensor, b: Tensor, given: torch.dtype) -> Tensor:
    """``x - A^+ (Ax - b)`` for data rounded to `given`; rows of zeros, with zeros in `b`, count for nothing."""
    eps = torch.finfo(given).eps
    length = norm(A.detach())
    scale = torch.where(length > 0, length, 1.0)  # rows of length one: the rank does not depend on how they are scaled
    A, b = A / scale, b / scale.squeeze(-1)
    inverse = torch.linalg.pinv(A, rtol=max(A.shape[-2:]) * eps)
    y = x - matvec(inverse, matvec(A, x) - b)
    size = matvec(A.detach().abs(), x.detach().abs()) + b.detach().abs()
    residual = (matvec(A, y) - b).detach().abs()
    feasible = (residual <= eps**0.5 * size).all(-1, keepdim=True)
    return torch.where(feasible, y, torch.nan)


def polyhedron(x: Tensor, G: Tensor, h: Tensor, A: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    r"""Project onto a polyhedron.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad Gy \le h,\; Ay = b

    The engine of :func:`~optlayers.solve_qp` finds the active rows, and the result is the projection onto the affine
    set that they define: accurate to rounding, with the derivatives of :func:`affine`, unless the point is so far away,
    ``1e8`` times the size of the set in float64, that the engine can't tell which rows those are. A constraint that is
    met without being needed (weakly active) counts as inactive.

    Args:
        x: ``(*, n)`` float32 or float64.
        G, h: ``(*, m, n)`` and ``(*, m)``; ``h`` may hold ``inf``.
        A, b: ``(*, k, n)`` and ``(*, k)``, or neither; leading dimensions broadcast.

    Returns:
        ``(*, n)``; NaN in samples that no point satisfies. :func:`~optlayers.solve_qp` says more about those.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; A without b, or b without A.
    """
    function = "projection.polyhedron"
    check_point(function, x, G=G, h=h, A=A, b=b)
    if (A is None) != (b is None):
        raise ValueError(f"{function}: {'b' if A is None else 'A'} is given without the other; expected A and b.")
    _check_rows(function, x, "G", G, "h", h)
    if A is None or b is None:
        A, b = x.new_zeros(0, x.shape[-1]), x.new_zeros(0)
    _check_rows(function, x, "A", A, "b", b)
    batch = broadcast_batch(function, {"x": (x, 1), "G": (G, 2), "h": (h, 1), "A": (A, 2), "b": (b, 1)})
    n, m, k = x.shape[-1], h.shape[-1], b.shape[-1]
    # In float64: near a vertex float32 can't tell which rows are active. Rounded data may contradict itself, though.
    dtype = x.dtype
    x, G, h, A, b = (value.double() for value in (x, G, h, A, b))
    point = flat(x, (*batch, n)).detach()
    limits, targets = flat(h, (*batch, m)).detach(), flat(b, (*batch, k)).detach()
    # In units of the largest number of a sample: the engine takes a far point for a sign of an unbounded program.
    numbers = torch.cat([point, limits, targets], -1).abs().nan_to_num(posinf=0.0)
    unit = numbers.amax(-1, keepdim=True) if n else numbers.sum(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)
    identity = torch.eye(n, dtype=x.dtype, device=x.device).expand(len(point), n, n)
    rows, equalities = flat(G, (*batch, m, n), 2).detach(), flat(A, (*batch, k, n), 2).detach()
    data = rows, limits / unit, equalities, targets / unit
    found = qp_solve(identity, -point / unit, *data, point[:, :0], point[:, :0], _EPS[dtype], _MAX_STEPS)
    active = found.active_G.reshape(*batch, m)
    solved = (found.status == int(Status.SOLVED)).reshape(*batch, 1)
    C = torch.cat([A.expand(*batch, k, n), torch.where(active.unsqueeze(-1), G, 0.0).expand(*batch, m, n)], -2)
    c = torch.cat([b.expand(*batch, k), torch.where(active, h, 0.0)], -1)
    return torch.where(solved, _onto_rows(x, C, c, dtype), torch.nan).to(dtype)
