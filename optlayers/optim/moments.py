r"""Transformations with bias-corrected first and second moments: the Adam family.

``m`` and ``v`` are moving averages of ``g`` and ``g^2`` with rates `b1` and `b2`; ``m_hat = m / (1 - b1^n)`` and
``v_hat = v / (1 - b2^n)`` at step ``n = 1, 2, ...``. At a zero gradient the square root counts as constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._native.update_ops import Moments, Second
from . import counting, lists
from .assembly import by_moments
from .hyper import check_fractions, check_nonnegative
from .lists import Scalar, Tensors
from .moment_rule import MomentRule
from .transformation import GradientTransformation, State


def scale_by_adam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    amsgrad: bool = False,
    *,
    fused: bool = True,
) -> GradientTransformation:
    """``m_hat / (sqrt(v_hat + eps_root) + eps)``; with `amsgrad` ``v`` is its largest value so far.

    References: Kingma and Ba, "Adam" (2015); Reddi et al., "On the convergence of Adam and beyond" (2018).
    """
    _check("scale_by_adam", b1, b2, eps)
    check_nonnegative("scale_by_adam", eps_root=eps_root)
    second, largest = (Second.LARGEST, "nu_max") if amsgrad else (Second.SQUARE, None)

    def init(params: Tensors) -> State:
        return {**_moments(params), **({"nu_max": lists.zeros(params)} if amsgrad else {})}

    def numbers(state: State) -> tuple[Moments, State]:
        step, n = _next(state)
        c1, c2 = _correction(b1, n), _correction(b2, n)
        # Both corrections go into the denominator, which spares a pass over the parameters.
        return Moments(second, b1, b2, sigma=c1 / c2**0.5, rho=eps_root * c2, epsilon=eps * c1), step

    return by_moments(init, MomentRule(("mu", "nu", largest), numbers), fused)


def scale_by_adamax(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, *, fused: bool = True
) -> GradientTransformation:
    """``m_hat / u`` with ``u <- max(b2 u, |g| + eps)``.

    References: Kingma and Ba, "Adam" (2015), section 7.
    """
    _check("scale_by_adamax", b1, b2, eps)

    def numbers(state: State) -> tuple[Moments, State]:
        step, n = _next(state)
        return Moments(Second.MAXIMUM, b1, b2, take2=eps, sigma=_correction(b1, n)), step

    return by_moments(_moments, MomentRule(("mu", "nu", None), numbers), fused)


def scale_by_nadam(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, momentum_decay: Scalar = 4e-3, *, fused: bool = True
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

    def numbers(state: State) -> tuple[Moments, State]:
        step, n = _next(state)
        now, following = rate(n), rate(n + 1)
        rates = state["rates"] * now  # their product so far
        product = counting.read(rates) if constant else rates
        alpha, beta = following / (1 - product * following), (1 - now) / (1 - product)
        sigma = _correction(b2, n) ** -0.5
        return Moments(Second.SQUARE, b1, b2, alpha=alpha, beta=beta, sigma=sigma, epsilon=eps), {
            **step,
            "rates": rates,
        }

    return by_moments(init, MomentRule(("mu", "nu", None), numbers), fused)


def scale_by_radam(
    b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8, *, fused: bool = True
) -> GradientTransformation:
    """``m_hat`` while the variance of ``v_hat`` is intractable, then Adam times a rectification.

    References: Liu et al., "On the variance of the adaptive learning rate and beyond" (2020).
    """
    _check("scale_by_radam", b1, b2, eps)

    def numbers(state: State) -> tuple[Moments, State]:
        step, n = _next(state)
        mean, decay, correction = 1 / _correction(b1, n), lists.precise(b2), _correction(b2, n)
        longest = 2 / (1 - decay) - 1
        length = longest - 2 * n * decay**n / correction
        tractable = length > 5
        chosen = _where(tractable, length, 6.0)
        ratio = (chosen - 4) * (chosen - 2) * longest / ((longest - 4) * (longest - 2) * chosen)
        alpha = mean * _where(tractable, _where(tractable, ratio, 1.0) * correction, 1.0) ** 0.5
        sigma, epsilon = _where(tractable, 1.0, 0.0), _where(tractable, eps, 1.0)
        return Moments(Second.SQUARE, b1, b2, alpha=alpha, sigma=sigma, epsilon=epsilon), step

    return by_moments(_moments, MomentRule(("mu", "nu", None), numbers), fused)


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


def _next(state: State) -> tuple[State, float | Tensor]:
    """The next counter, as part of the state and as a number."""
    step = state["step"] + 1
    return {"step": step}, counting.read(step)


def _where(condition: bool | Tensor, a: Scalar, b: Scalar) -> Scalar:
    if not isinstance(condition, Tensor):
        return a if condition else b
    a, b = (torch.as_tensor(value, dtype=torch.float64, device=condition.device) for value in (a, b))
    return torch.where(condition, a, b)
