"""Entropic transport between two sets of masses: the search for its scaling, and the linear system of its marginals.

For costs over the strength ``M (B, n, m)`` and masses ``a (B, n)``, ``b (B, m)`` of total one, the plan is
``P_ij = a_i b_j S_ij`` with ``S_ij = exp(w_j - M_ij) / sum_k b_k exp(w_k - M_ik)``: its rows sum to ``a`` for any
``w``, and its columns to ``b`` where ``sum_i a_i S_ij = 1``. Masses may be zero. ``w`` is made unique by ``b'w = 0``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .search import search

_COOLING = 4.0  # the strength falls by this factor from one stage to the next
_MILD = 10.0  # the first stage has costs over the strength of this range, which is easy from w = 0
_STAGE_ERROR = 0.01  # of the marginals, at which a stage that is not the last ends


def _empty(M: Tensor, a: Tensor, b: Tensor, tolerance: float, max_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(b), torch.empty_like(b[:, 0]), torch.empty_like(b[:, 0], dtype=torch.int64)


@search(_empty)
def transport_scaling(
    M: Tensor, a: Tensor, b: Tensor, tolerance: float, max_steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``w (B, m)``, the largest column error ``sum_j |sum_i P_ij - b_j|`` of each sample, and its steps.

    Newton's method on the concave dual ``b'w - sum_i a_i log sum_k b_k exp(w_k - M_ik)``, with backtracking; where that
    fails, a step of Sinkhorn's method, which always ascends. The strength is lowered in stages to its value.

    References: Cuturi, "Sinkhorn distances" (2013); Schmitzer, "Stabilized sparse scaling algorithms for entropy
    regularized transport problems" (2019), for the stages.
    """
    finite = torch.isfinite(M)
    spread = torch.where(finite, M, -torch.inf).amax((1, 2)) - torch.where(finite, M, torch.inf).amin((1, 2))
    heat = (spread / _MILD).nan_to_num(1.0).clamp(min=1.0)[:, None]
    w, caution, last = torch.zeros_like(b), torch.full_like(heat, 3.0), torch.full_like(heat, torch.inf)
    steps = torch.zeros_like(b[:, 0], dtype=torch.int64)
    for step in range(max_steps + 1):
        N = M / heat[..., None]
        S, log_total = plan_density(N, b, w)
        excess = (a[:, None] @ S)[:, 0] - 1
        error = (b * excess.abs()).sum(-1, keepdim=True)
        done = ((heat == 1) & (error <= tolerance)) | ~torch.isfinite(error)
        if step == max_steps or bool(done.all()):
            break
        stalled = (error > 0.5 * last) & ~done
        ascended, full = _ascend(N, a, b, w, S, log_total, excess, caution * error, stalled)
        cooler = torch.where(error <= _STAGE_ERROR, (heat / _COOLING).clamp(min=1.0), heat)
        caution = torch.where(full, caution / 2, 4 * caution).clamp(1e-6, 100.0)  # as Levenberg and Marquardt have it
        last = torch.where(cooler < heat, torch.inf, error)
        w = torch.where(done, w, ascended * (heat / cooler))
        heat = torch.where(done, heat, cooler)
        steps = steps + ~done[:, 0]
    # A column without mass has no say in the error; a step of Sinkhorn's method puts its w in place.
    w = torch.where((b > 0) | ~torch.isfinite(error), w, _sinkhorn(M, a, log_total))
    error = torch.where(heat == 1, error, torch.inf)
    return w - (b * w).sum(-1, keepdim=True), error[:, 0], steps


def _ascend(
    N: Tensor,
    a: Tensor,
    b: Tensor,
    w: Tensor,
    S: Tensor,
    log_total: Tensor,
    excess: Tensor,
    ridge: Tensor,
    stalled: Tensor,
) -> tuple[Tensor, Tensor]:
    """A Newton step on the dual, shortened until it ascends (Sinkhorn's where none does), and whether it is full.

    A ridge of the size of the error keeps the step short along directions in which the dual is nearly linear. Where
    that has `stalled`, the next bend of the dual is far, and the step is lengthened for as long as it ascends.
    """
    q = b.sqrt()
    inverse, _ = _inverse(S, a, q, ridge)
    direction = (_smooth(S, a, q * inverse(-q * excess)) - excess) / (1 + ridge)
    value = _dual(a, b, w, log_total)
    slope = -(b * excess * direction).sum(-1, keepdim=True)
    rounding = 100 * torch.finfo(w.dtype).eps * (1 + value.abs())

    def dual(at: Tensor) -> Tensor:
        return _dual(a, b, at, plan_density(N, b, at)[1])

    best, full = w, torch.zeros_like(value, dtype=torch.bool)
    open_ = ~full
    for size in 0.25 ** torch.arange(12.0, dtype=w.dtype):
        trial = w + size * direction
        better = open_ & (dual(trial) >= value + 1e-4 * size * slope - rounding)
        best = torch.where(better, trial, best)
        full, open_ = full | (better & (size == 1)), open_ & ~better
        if not bool(open_.any()):
            break
    best = torch.where(open_, _sinkhorn(N, a, log_total), best)
    longer = stalled & full
    for _ in range(12):
        if not bool(longer.any()):
            break
        trial = w + 4 * (best - w)
        longer = longer & (dual(trial) > dual(best) + rounding)
        best = torch.where(longer, trial, best)
    return best, full


def _dual(a: Tensor, b: Tensor, w: Tensor, log_total: Tensor) -> Tensor:
    return (b * w).sum(-1, keepdim=True) - (a * log_total[..., 0]).sum(-1, keepdim=True)


def _sinkhorn(M: Tensor, a: Tensor, log_total: Tensor) -> Tensor:
    return -torch.logsumexp(a.log()[..., None] - M - log_total, dim=1)


def plan_density(M: Tensor, b: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """``S (B, n, m)``, and the logarithm of its denominators ``(B, n, 1)``; differentiable."""
    exponent = w[..., None, :] - M
    top = torch.where(b[..., None, :] > 0, exponent, -torch.inf).detach().amax(-1, keepdim=True)
    # Only where both masses are zero can the exponent exceed the top by much, and there the plan is zero.
    weights = torch.exp((exponent - top).clamp(max=80.0))
    total = (weights * b[..., None, :]).sum(-1, keepdim=True)
    return weights / total, top + total.log()


def solve_marginals(S: Tensor, a: Tensor, b: Tensor, v: Tensor, transpose: bool) -> Tensor:
    r"""``J^-1 v`` or ``J^-T v``, for the Jacobian ``J = I - S'AS B + 1 b'`` of ``S'a - 1 + 1 b'w`` in ``w``.

    With ``N = A^(1/2) S B^(1/2)`` and ``q = sqrt(b)`` all of it follows from ``K = I - N'N + qq'``, symmetric with
    eigenvalues in [0, 1]. Where the strength is small, ``K`` tends to be singular, along directions that change the
    plan as little: a ridge at the rounding error bounds these, and refinement takes it out of the others.
    """
    q = b.sqrt()
    inverse, K = _inverse(S, a, q, 4 * b.shape[-1] * torch.finfo(b.dtype).eps)

    def refined(rhs: Tensor) -> Tensor:
        y = inverse(rhs)
        for _ in range(2):
            y = y + inverse(rhs - (K @ y[..., None])[..., 0])
        return y

    if transpose:
        return v + q * refined(q * _smooth(S, a, v))
    return v + _smooth(S, a, q * refined(q * v))


def _inverse(S: Tensor, a: Tensor, q: Tensor, ridge: Tensor | float) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The product with the inverse of ``K`` plus a ridge, and ``K``."""
    N = a.sqrt()[..., None] * S * q[..., None, :]
    identity = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    K = identity - N.mT @ N + q[..., None] * q[..., None, :]
    diagonal = identity * (ridge[..., None] if isinstance(ridge, Tensor) else ridge)
    factor, _ = torch.linalg.cholesky_ex(K + diagonal)
    return lambda rhs: torch.cholesky_solve(rhs[..., None], factor)[..., 0], K


def _smooth(S: Tensor, a: Tensor, u: Tensor) -> Tensor:
    """``(S'AS - 1 1') u``."""
    return (S.mT @ (a[..., None] * (S @ u[..., None])))[..., 0] - u.sum(-1, keepdim=True)
