"""Projection onto transport polytopes in the Kullback-Leibler divergence: entropic optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor

from .._base.numeric import matvec
from .._native.transport import transport_scaling
from ._arguments import flat
from .couplings import check_coupling, check_square

# Newton steps that carry the derivative: two make it exact up to third order.
_STEPS = 2
_MAX_STEPS = 500
_TOLERANCE = 1e-13  # of the search, in float64, relative to the sum of the marginals


def kl_transport(x: Tensor, marginals: tuple[Tensor, Tensor]) -> Tensor:
    r"""Project ``exp(X)`` onto the transport polytope, in the Kullback-Leibler divergence.

    .. math:: \arg\min_Y\ \textstyle\sum_{ij} Y_{ij} (\log Y_{ij} - 1 - X_{ij})
              \quad\text{s.t.}\quad Y \ge 0,\; Y \mathbf 1 = a,\; Y^\top \mathbf 1 = b

    Entropic optimal transport with the costs ``-X``: ``Y = exp(X + f + g)`` for potentials of rows and columns. Newton
    steps at the potentials carry the derivative, exact up to third order. Entries of ``-inf`` are masked out: they give
    0 and get gradient 0.

    Args:
        x: ``X``, ``(*, n, m)`` float32 or float64.
        marginals: ``a (*, n)`` and ``b (*, m)``, nonnegative and of equal sums; leading dimensions broadcast.

    Returns:
        ``(*, n, m)``; NaN in samples that no matrix satisfies, or for which no potentials were found.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit.

    References: Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport" (2013).
    """
    return _onto_couplings(*check_coupling("projection.kl_transport", x, marginals))


def kl_birkhoff(x: Tensor) -> Tensor:
    r"""Project ``exp(X)`` onto the Birkhoff polytope, in the Kullback-Leibler divergence.

    .. math:: \arg\min_Y\ \textstyle\sum_{ij} Y_{ij} (\log Y_{ij} - 1 - X_{ij})
              \quad\text{s.t.}\quad Y \ge 0,\; Y \mathbf 1 = \mathbf 1,\; Y^\top \mathbf 1 = \mathbf 1

    The limit of Sinkhorn's alternating normalization of rows and columns; see :func:`kl_transport`.

    Args:
        x: ``X``, ``(*, n, n)`` float32 or float64; ``-inf`` masks an entry out.

    Returns:
        ``(*, n, n)``; NaN in samples that no matrix satisfies, or for which no potentials were found.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: x is not square, or of another dtype.
    """
    return _onto_couplings(*check_square("projection.kl_birkhoff", x))


def _onto_couplings(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    masked = x == -torch.inf
    mass = a.detach().sum(-1, keepdim=True)
    valid = (torch.isfinite(x) | masked).all(-1).all(-1, keepdim=True)
    valid = valid & (a >= 0).all(-1, keepdim=True) & (b >= 0).all(-1, keepdim=True) & (mass > 0)
    valid = valid & ((b.detach().sum(-1, keepdim=True) - mass).abs() <= torch.finfo(x.dtype).eps ** 0.5 * mass)
    # Samples without a solution are replaced by one that has: ones.
    x, masked = torch.where(valid.unsqueeze(-1), x, 0.0), masked & valid.unsqueeze(-1)
    a, b = torch.where(valid, a, 1.0), torch.where(valid, b, 1.0)
    costs = torch.where(masked, torch.inf, -x).detach().double()
    masses = [flat(m, m.shape).detach().double() for m in (a, b)]
    masses = [m / m.sum(-1, keepdim=True) for m in masses]
    found, error, _ = transport_scaling(flat(costs, x.shape, 2), *masses, _TOLERANCE, _MAX_STEPS)
    w = found.reshape(b.shape).to(x.dtype)
    valid = valid & (error.reshape(*b.shape[:-1], 1) <= torch.finfo(x.dtype).eps ** 0.5)
    w = torch.where(valid, w, 0.0)

    empty = b == 0
    log_b = torch.where(empty, -torch.inf, torch.where(empty, 1.0, b).log())
    exponents = torch.where(masked, -torch.inf, x + log_b.unsqueeze(-2))
    ridge = 4 * b.shape[-1] * torch.finfo(x.dtype).eps
    for _ in range(_STEPS):
        shares = _shares(exponents + w.unsqueeze(-2))
        columns = matvec(shares.mT, a)
        # Singular along a constant, which the rank-one term takes, and where a column has no mass.
        jacobian = torch.diag_embed(torch.where(empty, 1.0, columns + ridge * b)) - shares.mT @ (
            a.unsqueeze(-1) * shares
        )
        jacobian = jacobian + b.unsqueeze(-1) * b.unsqueeze(-2) / b.sum(-1)[..., None, None]
        w = w - torch.linalg.solve(jacobian, (columns - b).unsqueeze(-1)).squeeze(-1)
    y = a.unsqueeze(-1) * _shares(exponents + w.unsqueeze(-2))
    return torch.where(valid.unsqueeze(-1), y, torch.nan)


def _shares(exponents: Tensor) -> Tensor:
    """softmax, with zeros and no NaN for a row in which all is masked."""
    nothing = (exponents == -torch.inf).all(-1, keepdim=True)
    return torch.where(nothing, 0.0, torch.softmax(torch.where(nothing, 0.0, exponents), -1))
