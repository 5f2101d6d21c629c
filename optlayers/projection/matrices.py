"""Projection of matrices by their eigenvalues or singular values."""

from __future__ import annotations

import torch
from torch import Tensor

from .._base.spectral import InvariantSubspace, dilation, eigenpairs
from .._native.simplex import simplex_support
from ._arguments import Number, check_point, flat, nonnegative, per_sample


def psd(X: Tensor) -> Tensor:
    r"""Project onto the cone of positive semidefinite matrices, which is its own dual.

    .. math:: \arg\min_Y\ \tfrac12\|Y - X\|_F^2 \quad\text{s.t.}\quad Y = Y^\top,\; Y \succeq 0

    The negative eigenvalues are set to zero. Derivatives depend on the subspace of positive eigenvalues, not on single
    eigenvectors, so that repeated eigenvalues do no harm; they are exact up to third order. An eigenvalue of zero
    counts as negative.

    Args:
        X: ``(*, n, n)`` float32 or float64; its symmetric part is what counts.

    Returns:
        ``(*, n, n)``.

    Raises:
        TypeError, ValueError: X is no tensor of these dtypes, or is not square.

    References: Higham, "Computing a nearest symmetric positive semidefinite matrix" (1988).
    """
    check_point("projection.psd", X, ("n", X.shape[-1] if isinstance(X, Tensor) and X.dim() else "n"))
    symmetric = X / 2 + X.mT / 2
    values, vectors = eigenpairs(symmetric)
    finite = torch.isfinite(X).all(-1, keepdim=True).all(-2, keepdim=True)
    part = InvariantSubspace(torch.where(finite, symmetric, 0.0), values, vectors, values > 0).part()
    return torch.where(finite, part, torch.nan)


def nuclear_ball(X: Tensor, radius: Number = 1.0) -> Tensor:
    r"""Project onto the ball of the nuclear norm, the sum of the singular values.

    .. math:: \arg\min_Y\ \tfrac12\|Y - X\|_F^2 \quad\text{s.t.}\quad \|Y\|_* \le r

    The singular values are projected onto the simplex if their sum exceeds the radius. Derivatives, exact up to third
    order, are unharmed by repeated singular values; on the sphere itself the derivative is the identity.

    Args:
        X: ``(*, m, n)`` float32 or float64.
        radius: a number, or ``(*)``; leading dimensions broadcast.

    Returns:
        ``(*, m, n)``; NaN in samples whose radius is negative.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; ``m = 0`` or ``n = 0``; a number ``radius < 0``.
    """
    function = "projection.nuclear_ball"
    check_point(function, X, ("m", "n"), radius=radius)
    if 0 in X.shape[-2:]:
        raise ValueError(f"{function}: X has shape {tuple(X.shape)}; expected at least one row and one column.")
    radius, X = per_sample(function, "radius", nonnegative(function, "radius", radius), X, own=2)
    rows, columns = X.shape[-2:]
    finite = torch.isfinite(X).all(-1, keepdim=True).all(-2, keepdim=True) & (radius >= 0)
    safe, radius = torch.where(finite, X, 0.0), torch.where(finite, radius, 1.0)
    J = dilation(safe)
    values, vectors = eigenpairs(J)
    singular = values[..., -min(rows, columns) :].clamp(min=0)
    limit = radius.detach().squeeze(-1)
    shifted = singular - singular[..., -1:]
    support = simplex_support(flat(shifted, shifted.shape), flat(limit, (*limit.shape[:-1], 1)).squeeze(-1))
    support = support.reshape(shifted.shape)
    # The smallest kept, not the threshold, so that rounding cannot part what the support has.
    least = torch.where(support, singular, torch.inf).amin(-1, keepdim=True)
    subspace = InvariantSubspace(J, values, vectors, values >= least)
    threshold = (subspace.trace()[..., None, None] - radius) / support.sum(-1)[..., None, None]
    sphere = 2 * subspace.part(threshold)[..., :rows, rows:]
    inside = singular.sum(-1)[..., None, None] <= radius
    return torch.where(finite, torch.where(inside, safe, sphere), torch.nan)
