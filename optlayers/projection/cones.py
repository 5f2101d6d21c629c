"""Projection onto the cones of cone programs, and onto their duals."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._base.checks import broadcast_batch
from .._base.numeric import norm
from .._native.cones import exponential_curve, exponential_root, power_curve, power_root
from ._arguments import Number, check_point, flat

# Newton steps that carry the derivative of a root: one makes it exact to first order, two to third, three to seventh.
_STEPS = 2

# A root of the power cone below which |z|, a fraction exp(root) of what it was, is zero up to rounding.
_NO_HEIGHT = -34.0


def zero(x: Tensor) -> Tensor:
    r"""Project onto the cone :math:`\{0\}`, whose dual is the whole space.

    Args:
        x: ``(*, n)`` float32 or float64.

    Returns:
        ``(*, n)`` zeros.

    Raises:
        TypeError, ValueError: x is no tensor of these dtypes.
    """
    check_point("projection.zero", x)
    return torch.where(x.isnan(), x, 0.0)


def nonneg(x: Tensor) -> Tensor:
    r"""Project onto the nonnegative orthant, which is its own dual.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad y \ge 0

    At an entry of zero the derivative is zero.

    Args:
        x: ``(*, n)`` float32 or float64.

    Returns:
        ``(*, n)``.

    Raises:
        TypeError, ValueError: x is no tensor of these dtypes, or has no dimension.
    """
    check_point("projection.nonneg", x)
    return torch.relu(x)


def second_order(x: Tensor) -> Tensor:
    r"""Project onto the second-order cone, which is its own dual.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad \|(y_2, \dots, y_n)\| \le y_1

    On the boundary of the cone, its apex included, the derivative is that of the inside, the identity; on the boundary
    of its polar it is zero.

    Args:
        x: ``(*, n)`` float32 or float64, ``n >= 1``.

    Returns:
        ``(*, n)``.

    Raises:
        TypeError, ValueError: x is no tensor of these dtypes, or has no entries.
    """
    check_point("projection.second_order", x)
    if x.shape[-1] == 0:
        raise ValueError(f"projection.second_order: x has shape {tuple(x.shape)}; expected at least one entry.")
    t, u = x[..., :1], x[..., 1:]
    length = norm(u)
    inside, polar = length <= t, length <= -t
    between = ~(inside | polar)
    # Half of a sum that may be beyond the largest number.
    half = torch.where(between, t / 2 + length / 2, 0.0)
    surface = torch.cat([half, half / torch.where(between, length, 1.0) * u], -1)
    return torch.where(inside, x, surface)


def exponential(x: Tensor) -> Tensor:
    r"""Project onto the exponential cone.

    .. math:: \mathcal K = \mathrm{cl}\,\{(x, y, z) : y > 0,\; y\, e^{x/y} \le z\}

    The ratio x/y of the projection is the root of a scalar equation; Newton steps at the root carry the derivative,
    exact up to third order. In the cone and on its boundary the derivative is the identity, in its polar it is zero.

    Args:
        x: ``(*, 3)`` float32 or float64; computed in float64.

    Returns:
        ``(*, 3)``.

    Raises:
        TypeError, ValueError: x is no tensor of these dtypes, or its last dimension is not 3.

    References: Friberg, "Projection onto the exponential cone: a univariate root-finding problem" (2023).
    """
    check_point("projection.exponential", x, (3,))
    v, scale = _unit(x)
    x1, y1, z1 = v.unbind(-1)
    inside = (y1 > 0) & (y1 * (x1 / torch.where(y1 > 0, y1, 1.0)).exp() <= z1)
    polar = (x1 > 0) & (x1 * (y1 / torch.where(x1 > 0, x1, 1.0)).exp() <= -math.e * z1)
    searched = ~(inside | polar | ((x1 <= 0) & (y1 <= 0)))
    other = torch.tensor([0.5, 1.0, 0.0], dtype=v.dtype, device=v.device)  # root 0, amid its bracket
    root = exponential_root(flat(torch.where(searched.unsqueeze(-1), v, other), v.shape)).reshape(x1.shape)
    found = searched & ~root.isnan()
    safe, root = torch.where(found.unsqueeze(-1), v, other), torch.where(found, root, 0.0)
    root = _attached(lambda ratio: exponential_curve(safe, ratio)[:2], root)
    surface = exponential_curve(safe, root)[2]
    # Where the ratio is beyond all exponentials the cone is flat: z >= 0 over the quadrant x <= 0 <= y.
    face = torch.stack([-torch.relu(-x1), torch.relu(y1), torch.relu(z1)], -1)
    return _assemble(x, v, scale, inside, polar, torch.where(found.unsqueeze(-1), surface, face))


def power(x: Tensor, alpha: Number) -> Tensor:
    r"""Project onto the power cone.

    .. math:: \mathcal K_\alpha = \{(x, y, z) : x, y \ge 0,\; x^\alpha y^{1-\alpha} \ge |z|\}

    The ``|z|`` of the projection is the root of a scalar equation; Newton steps at the root carry the derivative,
    exact up to third order. In the cone and on its boundary the derivative is the identity, in its polar it is zero.

    Args:
        x: ``(*, 3)`` float32 or float64; computed in float64.
        alpha: a number, or ``(*)``, between 0 and 1, both excluded; leading dimensions broadcast.

    Returns:
        ``(*, 3)``; NaN in samples whose ``alpha`` is out of range.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: dtypes, devices or shapes that do not fit; a number ``alpha`` that is out of range.

    References: Hien, "Differential properties of Euclidean projection onto power cone" (2015).
    """
    check_point("projection.power", x, (3,), alpha=alpha)
    if isinstance(alpha, Tensor):
        valid = (alpha > 0) & (alpha < 1)
        batch = broadcast_batch("projection.power", {"x": (x, 1), "alpha": (alpha, 0)})
        x, alpha = x.expand(*batch, 3), torch.where(valid, alpha, 0.5).double()
        x = torch.where(valid.unsqueeze(-1), x, torch.nan)
    elif not 0 < alpha < 1:
        raise ValueError(f"projection.power: alpha is {alpha}; expected a number between 0 and 1, both excluded.")
    else:
        alpha = torch.full((), alpha, dtype=torch.float64, device=x.device)
    v, scale = _unit(x)
    x1, y1, z1 = v.unbind(-1)
    inside = (x1 >= 0) & (y1 >= 0) & (torch.relu(x1) ** alpha * torch.relu(y1) ** (1 - alpha) >= z1.abs())
    dual = (torch.relu(-x1) / alpha) ** alpha * (torch.relu(-y1) / (1 - alpha)) ** (1 - alpha)
    polar = (x1 <= 0) & (y1 <= 0) & (dual >= z1.abs())
    found = ~(inside | polar | (z1 == 0))
    other = torch.tensor([1.0, 0.0, 1.0], dtype=v.dtype, device=v.device)
    safe = torch.where(found.unsqueeze(-1), v, other)
    alpha = alpha.expand(z1.shape)
    root = power_root(flat(safe, v.shape), flat(alpha, z1.shape, 0)).reshape(z1.shape)
    found = found & (root > _NO_HEIGHT)
    safe, root = torch.where(found.unsqueeze(-1), v, other), torch.where(root > _NO_HEIGHT, root, 0.0)
    root = _attached(lambda root: power_curve(safe, alpha, root)[:2], root)
    point = power_curve(safe, alpha, root)[2]
    sign = torch.where(safe[..., 2] < 0, -1.0, 1.0).to(v.dtype)
    surface = torch.cat([point[..., :2], (sign * point[..., 2]).unsqueeze(-1)], -1)
    face = torch.stack([torch.relu(x1), torch.relu(y1), torch.zeros_like(z1)], -1)
    return _assemble(x, v, scale, inside, polar, torch.where(found.unsqueeze(-1), surface, face))


def dual(project: Callable[..., Tensor]) -> Callable[..., Tensor]:
    r"""The projection onto the dual of a cone, from that onto the cone.

    .. math:: P_{\mathcal K^*}(x) = x + P_{\mathcal K}(-x)

    Args:
        project: the projection onto a closed convex cone, such as :func:`exponential`.

    Returns:
        A function with the arguments of `project`.

    References: Moreau, "Décomposition orthogonale d'un espace hilbertien selon deux cônes mutuellement polaires"
    (1962).
    """

    def project_dual(x: Tensor, *parameters: Number) -> Tensor:
        check_point("projection.dual", x)
        return x + project(-x, *parameters)

    return project_dual


def _attached(fn: Callable[[Tensor], tuple[Tensor, Tensor]], root: Tensor) -> Tensor:
    """The constant `root` of a function, given with its slope, with its derivatives (PROJ-2)."""
    # What the function is off by rounding is taken off: a small slope would make a large step of it.
    offset = fn(root)[0].detach()
    for _ in range(_STEPS):
        value, slope = fn(root)
        root = root - (value - offset) / slope
    return root


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` in float64, scaled by a constant to a largest entry of one; zeros where it is not finite."""
    size = x.detach().abs().amax(-1, keepdim=True).double()
    usable = torch.isfinite(size) & (size > 0)
    scale = torch.where(usable, size, 1.0)
    return torch.where(torch.isfinite(size), x.double() / scale, 0.0), scale


def _assemble(x: Tensor, v: Tensor, scale: Tensor, inside: Tensor, polar: Tensor, rest: Tensor) -> Tensor:
    """The projection of ``scale v`` from its three cases."""
    y = torch.where(polar.unsqueeze(-1), 0.0, rest) * scale
    y = torch.where(inside.unsqueeze(-1), v * scale, y).to(x.dtype)
    return torch.where(torch.isfinite(x).all(-1, keepdim=True), y, torch.nan)
