r"""Transformations with bias-corrected first and second moments: the Adam family.

``m`` and ``v`` are moving averages of ``g`` and ``g^2`` with rates `b1` and `b2`; ``m_hat = m / (1 - b1^n)`` and
``v_hat = v / (1 - b2^n)`` at step ``n = 1, 2, ...``. At a zero gradient the square root counts as constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import counting, lists
from .hyper import check_fractions, check_nonnegative
from .lists import Scalar, Tensors
from .transformation import GradientTransformation, State


def scale_by_adam(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, eps_root: Scalar = 0.0, amsgrad: bool = False
) -> GradientTransformation:
    """``m_hat / (sqrt(v_hat + eps_root) + eps)``; with `amsgrad` ``v`` is its largest value so far.

    References: Kingma and Ba, "Adam" (2015); Reddi et al., "On the convergence of Adam and beyond" (2018).
    """
    _check("scale_by_adam", b1, b2, eps)
    check_nonnegative("scale_by_adam", eps_root=eps_root)

    def init(params: Tensors) -> State:
        return {**_moments(params), **({"nu_max": lists.zeros(params)} if amsgrad else {})}

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        new, n = _advance(updates, state, b1, b2, overwrite)
        second = new["nu"]
        if amsgrad:
            second = new["nu_max"] = lists.maximum(state["nu_max"], second)
        c1, c2 = _correction(b1, n), _correction(b2, n)
        root = lists.root(lists.shift(second, eps_root * c2), overwrite)
        # Both corrections go into the denominator, which spares a pass over the parameters.
        root = lists.shift(lists.scale(root, c1 / c2**0.5, overwrite), eps * c1, overwrite)
        return lists.divide(new["mu"], root, overwrite), new

    return GradientTransformation(init, update)


def scale_by_adamax(b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> GradientTransformation:
    """``m_hat / u`` with ``u <- max(b2 u, |g| + eps)``.

    References: Kingma and Ba, "Adam" (2015), section 7.
    """
    _check("scale_by_adamax", b1, b2, eps)

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        step = state["step"] + 1
        mu = lists.average(state["mu"], updates, b1, overwrite)
        nu = lists.maximum(lists.scale(state["nu"], b2), lists.shift(lists.absolute(updates), eps))
        size = lists.scale(lists.at_least_smallest(nu), _correction(b1, counting.read(step)))
        return lists.divide(mu, size), {"step": step, "mu": mu, "nu": nu}

    return GradientTransformation(_moments, update)


def scale_by_nadam(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, momentum_decay: Scalar = 4e-3
) -> GradientTransformation:
    """Adam with Nesterov's momentum, whose rate rises as ``b1 (1 - 0.96^(n momentum_decay) / 2)``.

    References: Dozat, "Incorporating Nesterov momentum into Adam" (2016).
    """
    _check("scale_by_nadam", b1, b2, eps)
    check_nonnegative("scale_by_nadam", momentum_decay=momentum_decay)
    constant = not isinstance(b1, Tensor) and not isinstance(momentum_decay, Tensor)

    def rate(n: float | Tensor) -> Scalar:
        return lists.precise(b1) * (1 - 0.5 * 0.96 ** (n * lists.precise(momentum_decay)))

    def init(params: Tensors) -> State:
        return {**_moments(params), "rates": torch.ones((), dtype=torch.float64)}

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        new, n = _advance(updates, state, b1, b2, overwrite)
        now, following = rate(n), rate(n + 1)
        new["rates"] = state["rates"] * now  # their product so far
        product = counting.read(new["rates"]) if constant else new["rates"]
        mean = lists.scale(new["mu"], following / (1 - product * following))
        mean = lists.add(mean, updates, (1 - now) / (1 - product))
        root = lists.scale(lists.root(new["nu"], overwrite), _correction(b2, n) ** -0.5, overwrite)
        return lists.divide(mean, lists.shift(root, eps, overwrite), overwrite), new

    return GradientTransformation(init, update)


def scale_by_radam(b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> GradientTransformation:
    """``m_hat`` while the variance of ``v_hat`` is intractable, then Adam times a rectification.

    References: Liu et al., "On the variance of the adaptive learning rate and beyond" (2020).
    """
    _check("scale_by_radam", b1, b2, eps)

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        new, n = _advance(updates, state, b1, b2, overwrite)
        mean = lists.scale(new["mu"], 1 / _correction(b1, n))
        decay, correction = lists.precise(b2), _correction(b2, n)
        longest = 2 / (1 - decay) - 1
        length = longest - 2 * n * decay**n / correction
        tractable = length > 5
        if not isinstance(tractable, Tensor) and not tractable:
            return mean, new
        chosen = torch.where(tractable, length, 6.0) if isinstance(length, Tensor) else length
        ratio = (chosen - 4) * (chosen - 2) * longest / ((longest - 4) * (longest - 2) * chosen)
        ratio = (torch.where(tractable, ratio, 1.0) if isinstance(ratio, Tensor) else ratio) * correction
        adapted = lists.divide(
            lists.scale(mean, ratio**0.5), lists.shift(lists.root(new["nu"], overwrite), eps, overwrite)
        )
        if isinstance(tractable, Tensor):
            adapted = [torch.where(tractable.to(a.device), a, b) for a, b in zip(adapted, mean, strict=True)]
        return adapted, new

    return GradientTransformation(_moments, update)


def scale_by_adan(
    b1: Scalar = 0.98, b2: Scalar = 0.92, b3: Scalar = 0.99, eps: Scalar = 1e-8
) -> GradientTransformation:
    """``(m_hat + b2 d_hat) / (sqrt(v_hat) + eps)``, where ``d`` averages ``y = g - last g`` and ``v`` ``(g + b2 y)^2``.

    References: Xie et al., "Adan: adaptive Nesterov momentum algorithm" (2022); the rates are one minus those there.
    """
    _check("scale_by_adan", b1, b2, eps)
    check_fractions("scale_by_adan", b3=b3)

    def init(params: Tensors) -> State:
        return {**_moments(params), "delta": lists.zeros(params), "last": lists.zeros(params)}

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        step = state["step"] + 1
        n = counting.read(step)
        change = lists.scale(lists.add(updates, state["last"], -1.0), _not_first(n))
        mu = lists.average(state["mu"], updates, b1, overwrite)
        delta = lists.average(state["delta"], change, b2, overwrite)
        nu = lists.average_square(state["nu"], lists.add(updates, change, b2), b3, overwrite)
        mean = lists.add(lists.scale(mu, 1 / _correction(b1, n)), delta, b2 / _correction(b2, n))
        root = lists.shift(
            lists.scale(lists.root(nu, overwrite), _correction(b3, n) ** -0.5, overwrite), eps, overwrite
        )
        # A copy where the gradients may be overwritten before the next step.
        last = [u.clone() for u in updates] if overwrite else list(updates)
        return lists.divide(mean, root, overwrite), {
            "step": step, "mu": mu, "nu": nu, "delta": delta, "last": last,
        }  # fmt: skip

    return GradientTransformation(init, update)


def _correction(rate: Scalar, n: float | Tensor) -> Scalar:
    """What a moving average that began at zero lacks after `n` steps."""
    return 1 - lists.precise(rate) ** n


def _not_first(n: float | Tensor) -> Scalar:
    return (n > 1).to(n) if isinstance(n, Tensor) else float(n > 1)


def _check(function: str, b1: Scalar, b2: Scalar, eps: Scalar) -> None:
    check_fractions(function, b1=b1, b2=b2)
    check_nonnegative(function, eps=eps)


def _moments(params: Tensors) -> State:
    return {"step": counting.start(), "mu": lists.zeros(params), "nu": lists.zeros(params)}


def _advance(
    updates: Tensors, state: State, b1: Scalar, b2: Scalar, overwrite: bool
) -> tuple[dict[str, State], float | Tensor]:
    """The next counter and moments, and the counter as a number."""
    step = state["step"] + 1
    mu = lists.average(state["mu"], updates, b1, overwrite)
    nu = lists.average_square(state["nu"], updates, b2, overwrite)
    return {"step": step, "mu": mu, "nu": nu}, counting.read(step)
