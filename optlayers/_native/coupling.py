"""The potentials of the Euclidean projection onto a transport polytope, by a semismooth Newton method on the dual."""

from __future__ import annotations

import torch
from torch import Tensor

from .search import search

_MAX_STEPS = 200
_MILD = 100.0  # a spread of X, in units of the marginals, that needs no stages
_COOLING = 3  # powers of two from one stage to the next
_STAGE_ERROR = 0.05  # of the marginals, at which a stage that is not the last ends
_SWEEPS = 3  # of exact steps in one marginal at a time, before the first Newton step
_HALVINGS = 50


def _empty(X: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(a, dtype=torch.float64), torch.empty_like(b, dtype=torch.float64)


@search(_empty)
def coupling_potentials(X: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Potentials ``f (B, n)``, ``g (B, m)`` for which ``P = (X + f + g)+`` has the row sums a and the column sums b.

    In float64, whatever the dtype of X: they may be as large as X, and P be their small difference.

    ``X (B, n, m)`` may hold ``-inf``. Minimises the convex, piecewise quadratic

    .. math:: \tfrac12 \textstyle\sum_{ij} (X_{ij} + f_i + g_j)_+^2 - a^\top f - b^\top g

    whose Hessian counts the support of P. It is singular at least along ``f + c, g - c``; the shift that makes it
    regular goes to zero with the residual. A sample that has no solution stops with sums that are wrong.

    References: Blondel, Seguy and Rolet, "Smooth and sparse optimal transport" (2018); Lorenz, Manns and Meyer,
    "Quadratically regularized optimal transport" (2021).
    """
    X, a, b = X.double(), a.double(), b.double()
    valid = (X.isfinite() | (X == -torch.inf)).all(-1).all(-1) & a.isfinite().all(-1) & b.isfinite().all(-1)
    X, a, b = _where(valid, X), _where(valid, a), _where(valid, b)
    total_a, total_b = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
    b = torch.where(total_b > 0, b * (total_a / total_b), b)  # without equal sums the objective has no minimum
    if X.numel() == 0:
        return torch.zeros_like(a), torch.zeros_like(b)
    finite = torch.where(X.isfinite(), X, 0.0)
    size = torch.maximum(a.amax(-1), b.amax(-1)).clamp(min=torch.finfo(a.dtype).tiny)
    spread = (finite.amax((-1, -2)) - finite.amin((-1, -2))) / size
    rounding = torch.finfo(X.dtype).eps * (4 * finite.abs().amax((-1, -2)) + 50 * X.shape[-1] * size)
    # Where X dwarfs the marginals nearly all of P is zero and Newton's method is lost: X grows to its size in stages.
    stages = 1 + int((spread.amax() / _MILD).log2().div(_COOLING).ceil().clamp(0, 40))
    f, g = torch.zeros_like(a), torch.zeros_like(b)
    for stage in reversed(range(stages)):
        heat = torch.minimum((spread / _MILD).clamp(min=1.0), torch.full_like(spread, 2.0 ** (_COOLING * stage)))
        h = heat[:, None]
        tolerance = rounding if stage == 0 else _STAGE_ERROR * size
        f, g = _newton(X / h[..., None], a, b, f / h, g / h, size, spread / heat, tolerance)
        f, g = f * h, g * h
    return f, g


def _newton(
    X: Tensor, a: Tensor, b: Tensor, f: Tensor, g: Tensor, size: Tensor, spread: Tensor, tolerance: Tensor
) -> tuple[Tensor, Tensor]:
    """The potentials for which no sum is wrong by more than the tolerance ``(B,)``, started at f and g.

    ``size (B,)`` is that of the marginals, ``spread (B,)`` the range of X over it.
    """
    for _ in range(_SWEEPS):
        f = -_thresholds(X + g[:, None], a)
        g = -_thresholds((X + f[:, :, None]).mT, b)
    n, target = a.shape[-1], torch.cat([a, b], -1)
    for _ in range(_MAX_STEPS):
        P = torch.relu(X + f[:, :, None] + g[:, None])
        residual = target - torch.cat([P.sum(-1), P.sum(-2)], -1)
        error = residual.abs().amax(-1)
        running = error > tolerance
        if not running.any():
            break
        H = bipartite((P > 0).double())
        # Small enough to let parts of the support that are not connected move apart by as much as X differs.
        shift = 1e-13 + 1e-3 * (error / size).clamp(max=1.0) / (spread / _MILD).clamp(min=1.0)
        eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
        step = torch.linalg.solve(H + shift[:, None, None] * eye, residual.unsqueeze(-1)).squeeze(-1)
        length = torch.where(running, _line_search(X, f, g, step, residual, target), 0.0)
        if not (length > 0).any():
            break
        f, g = f + length[:, None] * step[:, :n], g + length[:, None] * step[:, n:]
    return f, g


def bipartite(S: Tensor) -> Tensor:
    """``[[diag(S 1), S], [S', diag(S' 1)]]``, what moves of the potentials do to the sums over the support S."""
    rows, columns = torch.diag_embed(S.sum(-1)), torch.diag_embed(S.sum(-2))
    return torch.cat([torch.cat([rows, S], -1), torch.cat([S.mT, columns], -1)], -2)


def _where(valid: Tensor, values: Tensor) -> Tensor:
    return torch.where(valid.reshape(-1, *[1] * (values.dim() - 1)), values, 0.0)


def _thresholds(X: Tensor, sums: Tensor) -> Tensor:
    """For each row the t with ``sum (x - t)+`` equal to the number wanted; the largest entry where that is zero."""
    ordered = X.sort(-1, descending=True).values
    finite = torch.where(ordered.isfinite(), ordered, 0.0)
    count = torch.arange(1, X.shape[-1] + 1, dtype=X.dtype, device=X.device)
    thresholds = (finite.cumsum(-1) - sums.unsqueeze(-1)) / count
    last = ((ordered > thresholds) & ordered.isfinite()).sum(-1, keepdim=True).clamp(min=1) - 1
    return thresholds.gather(-1, last).squeeze(-1)


def _line_search(X: Tensor, f: Tensor, g: Tensor, step: Tensor, residual: Tensor, target: Tensor) -> Tensor:
    """The longest of 1, 1/2, 1/4, ... at which the dual objective is not yet beyond its minimum; else 0."""
    n = f.shape[-1]
    slope = (residual * step).sum(-1)  # of minus the objective
    length = torch.ones_like(slope)
    accepted = torch.zeros_like(slope)
    for _ in range(_HALVINGS):
        moved_f, moved_g = f + length[:, None] * step[:, :n], g + length[:, None] * step[:, n:]
        P = torch.relu(X + moved_f[:, :, None] + moved_g[:, None])
        left = ((target - torch.cat([P.sum(-1), P.sum(-2)], -1)) * step).sum(-1)
        # As long as a convex function has not begun to rise, but for rounding, it has fallen: no values to compare.
        fits = left >= -0.01 * slope
        accepted = torch.where((accepted == 0) & fits, length, accepted)
        if (accepted > 0).all():
            break
        length = torch.where(accepted > 0, length, length / 2)
    return accepted
