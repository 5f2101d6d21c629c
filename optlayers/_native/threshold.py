"""Points ``p_i = phi(x_i - t)`` with a threshold ``t`` set by the sum of their entries: entmax, and k of n."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ops import call
from .search import search
from .simplex import simplex_point

_STEPS = 200  # never reached in practice: a bracket of doubles is empty after some 60 bisections


def _empty(x: Tensor, parameter: Tensor | int) -> Tensor:
    return torch.empty_like(x)


def _compiled_entmax(x: Tensor, alpha: Tensor) -> Tensor:
    """The kernels for 1.5 and 2; for other orders the vectorized powers of torch."""
    if x.numel() and bool((alpha == 2).all()):
        return simplex_point(x, alpha.new_ones(1))[0]
    if not x.numel() or not bool((alpha == 1.5).all()):
        return entmax_point.__wrapped__(x, alpha)  # pyright: ignore[reportFunctionMemberAccess]
    x = x.contiguous()
    p = torch.empty_like(x)
    call("entmax15", x.dtype, *x.shape, x.data_ptr(), p.data_ptr())
    return p


@search(_empty, _compiled_entmax)
def entmax_point(x: Tensor, alpha: Tensor) -> Tensor:
    """The alpha-entmax ``p (B, n)`` of ``x (B, n)`` for ``alpha (B,)``, at least 1; NaN where there is none.

    ``p = [1 + a (x - t)]_+ ^ (1 / a)`` with ``a = alpha - 1``, so that a = 0 is the exponential, and entries of -inf
    give 0. Up to alpha = 2 the function ``(sum(p)^a - 1) / a`` is convex in ``t``, being a norm, and decreases:
    Newton's method from ``t = max(x)`` goes straight to the root. Beyond, bisection guards it.

    References: Peters, Niculae, Martins, "Sparse sequence-to-sequence models" (2019).
    """
    largest = x.amax(-1, keepdim=True)
    y = x - torch.where(torch.isfinite(largest), largest, torch.nan)
    if x.numel() and bool((alpha == alpha[0]).all()):
        if alpha[0] == 1:
            return torch.softmax(y, -1)
        if alpha[0] == 1.5 or alpha[0] == 2:
            return _norm_point(y, float(alpha[0]) - 1)
    a = torch.where(alpha >= 1, alpha - 1, torch.nan)[:, None]
    exponential, steep = a < torch.finfo(x.dtype).eps / 16, a > 1
    all_deformed, none_steep = not bool(exponential.any()), not bool(steep.any())

    def log_base(t: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of ``1 + a (y - t)``, and where that is positive; elsewhere 0, as log(0) is slow."""
        shift = a * (y - t)
        inside = ~(shift <= -1)
        log = torch.log1p(torch.where(inside, shift, 0.0))
        if none_steep:
            return log, inside
        # Beyond a = 1 the unknown is a t - 1, the base of the largest entry: it can be tiny, and 1 + a (y - t) rounds.
        base = a * y - t
        above = ~(base <= 0)
        return torch.where(steep, torch.log(torch.where(above, base, 1.0)), log), torch.where(steep, above, inside)

    def evaluate(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log, inside = log_base(t)
        power = log / a if all_deformed else torch.where(exponential, y - t, log / a)
        p = torch.where(inside, torch.exp(power), 0.0)
        slope = (p * torch.exp(-log)).sum(-1, keepdim=True) * torch.where(steep, 1 / a, 1.0)
        total = p.sum(-1, keepdim=True)
        deformed = torch.where(exponential, total.log(), torch.expm1(a * total.log()) / a)
        return p, total - 1, deformed * total ** (1 - a) / slope

    # The largest entry of p is between 1 / n, if all are equal, and 1.
    log_count = torch.isfinite(y).sum(-1, keepdim=True).to(x.dtype).log()
    high = torch.where(exponential, log_count, -torch.expm1(-a * log_count) / a)
    low = torch.where(steep, -torch.ones_like(a), 0.0)
    return _decreasing_root(evaluate, low, torch.where(steep, -torch.exp(-a * log_count), high), low)


def _norm_point(y: Tensor, a: float) -> Tensor:
    """The same for a = 1 and a = 1/2, where the powers are 1 and 2, in place; ``y`` has a maximum of 0 and is spent."""
    y = y.mul_(a)
    u = torch.empty_like(y)
    t = y.new_full((y.shape[0], 1), -1.0)
    while True:
        torch.sub(y, t, out=u).clamp_(min=0.0)
        total = u.sum(-1, keepdim=True)
        if a == 1:
            better = torch.maximum(t, t + (total - 1) / torch.sign(u).sum(-1, keepdim=True))
        else:
            norm = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
            better = torch.maximum(t, t + (norm * norm - norm) / total)
        if torch.equal(better.nan_to_num(), t.nan_to_num()):  # it increases, to the last digit
            return u if a == 1 else u.square_()
        t = better


@search(_empty)
def lml_point(x: Tensor, k: int) -> Tensor:
    """``p = sigmoid(x - t)`` with ``sum(p) = k`` for ``x (B, n)`` and ``0 < k < n``; entries of -inf give 0.

    A row with k finite entries has 1 there; one with fewer is NaN.
    """
    largest = x.topk(k + 1, dim=-1).values
    above, below = largest[:, k - 1 : k], largest[:, k:]
    full = torch.isneginf(below) & torch.isfinite(above)
    # The k + 1 largest reach the sum at the low end; at the high end the n - k + 1 smallest add at most 1 to k - 1.
    low = torch.where(full, 0.0, below - torch.log(torch.tensor(float(k), dtype=x.dtype)))
    high = torch.where(full, 0.0, above + torch.log(torch.tensor(float(x.shape[-1] - k + 1), dtype=x.dtype)))

    def evaluate(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = torch.where(full, (x > -torch.inf).to(x.dtype), torch.sigmoid(x - t))
        excess = p.sum(-1, keepdim=True) - k
        return p, excess, excess / (p * (1 - p)).sum(-1, keepdim=True)

    p = _decreasing_root(evaluate, low, high, low + (high - low) / 2)
    return torch.where(torch.isfinite(above + p.sum(-1, keepdim=True)), p, torch.nan)


def _decreasing_root(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], low: Tensor, high: Tensor, t: Tensor
) -> Tensor:
    """The point at the root ``t (B, 1)`` of a decreasing function, by Newton's method held in a bracket.

    ``evaluate(t)`` gives the point ``(B, n)``, the value of the function and Newton's step, each ``(B, 1)``. A sample
    stops on its own, when its value is zero to rounding or no number is left in its bracket.
    """
    point, value, step = evaluate(t)
    best, move = point, high - low
    done = torch.zeros_like(t, dtype=torch.bool)
    for _ in range(_STEPS):
        best = torch.where(done, best, point)
        done = done | ~(value.abs() > 4 * torch.finfo(t.dtype).eps)
        low, high = torch.where(value > 0, t, low), torch.where(value > 0, high, t)
        middle = low + (high - low) / 2
        newton = t + step
        # A step that is not half of the one before is Newton's method lost: bisect.
        lost = ~((newton > low) & (newton < high)) | (step.abs() > move.abs() / 2)
        ahead = torch.where(lost, middle, newton)
        done = done | (ahead == t) | ((middle <= low) | (middle >= high))
        if bool(done.all()):
            break
        move, t = torch.where(lost, high - low, step), torch.where(done, t, ahead)
        point, value, step = evaluate(t)
    return best
