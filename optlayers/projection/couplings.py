"""Projection of matrices onto transport polytopes: nonnegative, with given sums of rows and of columns."""

from __future__ import annotations

import torch
from torch import Tensor

from .._base.checks import broadcast_batch, check_shape
from .._base.numeric import matvec
from .._native.coupling import bipartite, coupling_potentials
from ._arguments import check_point, flat


def transport(x: Tensor, marginals: tuple[Tensor, Tensor]) -> Tensor:
    r"""Project onto the transport polytope.

    .. math:: \arg\min_Y\ \tfrac12\|Y - X\|_F^2
              \quad\text{s.t.}\quad Y \ge 0,\; Y \mathbf 1 = a,\; Y^\top \mathbf 1 = b

    Optimal transport with the costs ``-X`` and a quadratic regularization; the result is sparse. Entries of ``-inf``
    are masked out: they give 0 and get gradient 0. The derivative is linear on the support.

    Args:
        x: ``X``, ``(*, n, m)`` float32 or float64.
        marginals: ``a (*, n)`` and ``b (*, m)``, nonnegative and of equal sums; leading dimensions broadcast.

    Returns:
        ``(*, n, m)``; NaN in samples that no matrix satisfies.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit.

    References: Blondel, Seguy and Rolet, "Smooth and sparse optimal transport" (2018).
    """
    x, a, b = check_coupling("projection.transport", x, marginals)
    return _onto_couplings(x, a, b)


def birkhoff(x: Tensor) -> Tensor:
    r"""Project onto the Birkhoff polytope of doubly stochastic matrices.

    .. math:: \arg\min_Y\ \tfrac12\|Y - X\|_F^2
              \quad\text{s.t.}\quad Y \ge 0,\; Y \mathbf 1 = \mathbf 1,\; Y^\top \mathbf 1 = \mathbf 1

    Args:
        x: ``X``, ``(*, n, n)`` float32 or float64; ``-inf`` masks an entry out.

    Returns:
        ``(*, n, n)``; NaN in samples that no matrix satisfies.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: x is not square, or of another dtype.
    """
    return _onto_couplings(*check_square("projection.birkhoff", x))


def check_coupling(function: str, x: Tensor, marginals: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Check a matrix and its marginals, and expand all to one batch."""
    if not isinstance(marginals, tuple | list) or len(marginals) != 2:
        raise TypeError(f"{function}: marginals is a {type(marginals).__name__}; expected the tuple (a, b) of tensors.")
    a, b = marginals
    check_point(function, x, ("n", "m"), a=a, b=b)
    n, m = x.shape[-2:]
    check_shape(function, "a", a, (n,), "because x has {} rows", n)
    check_shape(function, "b", b, (m,), "because x has {} columns", m)
    batch = broadcast_batch(function, {"x": (x, 2), "a": (a, 1), "b": (b, 1)})
    return x.expand(*batch, n, m), a.expand(*batch, n), b.expand(*batch, m)


def check_square(function: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check a square matrix; with marginals of ones."""
    check_point(function, x, ("n", "n"))
    n = x.shape[-1]
    check_shape(function, "x", x, (n, n), "to be square")
    ones = torch.ones(n, dtype=x.dtype, device=x.device).expand(x.shape[:-1])
    return x, ones, ones


def _onto_couplings(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    n, m = x.shape[-2:]
    f, g = coupling_potentials(flat(x, x.shape, 2), flat(a, a.shape), flat(b, b.shape))
    masked = x == -torch.inf
    # Moved by the constant potentials first, what is left to find is small, and so are the sums.
    near = torch.where(masked, 0.0, x).double() + f.reshape(*x.shape[:-1], 1) + g.reshape(*x.shape[:-2], 1, m)
    near = near.to(x.dtype)
    support = ~(near.detach() <= 0) & ~masked
    inside = torch.where(support, near, 0.0)
    lack = torch.cat([a - inside.sum(-1), b - inside.sum(-2)], -1)
    step = matvec(torch.linalg.pinv(bipartite(support.to(x.dtype)), hermitian=True), lack)
    y = torch.where(support, inside + step[..., :n, None] + step[..., None, n:], 0.0)
    lack = torch.cat([a - y.sum(-1), b - y.sum(-2)], -1).abs()
    size = torch.cat([a, b], -1).abs().sum(-1, keepdim=True)
    feasible = (lack <= torch.finfo(x.dtype).eps ** 0.5 * size).all(-1, keepdim=True).unsqueeze(-1)
    feasible = feasible & (a >= 0).all(-1)[..., None, None] & (b >= 0).all(-1)[..., None, None]
    return torch.where(feasible, y, torch.nan)
