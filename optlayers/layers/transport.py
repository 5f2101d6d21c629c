"""Entropic optimal transport as a layer, differentiated through the equations of its marginals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._base.checks import broadcast_batch, check_shape, check_tensors
from .._base.status import Solution, Status
from .._native.transport import plan_density, solve_marginals, transport_scaling
from ..functional.outcome import Outcome
from ..implicit.rule import Rule, attach

# Of the column sums, relative to the total.
_AIM, _ENOUGH = 1e-12, {torch.float64: 1e-8, torch.float32: 1e-6}


class OptimalTransport(nn.Module):
    r"""The plan that carries masses ``a`` to masses ``b`` at the least cost, smoothed by entropy.

    .. math:: \min_P\ \langle C, P \rangle + \varepsilon \sum_{ij} P_{ij} (\log P_{ij} - 1)
              \quad\text{s.t.}\quad P \mathbf 1 = a,\; P^\top \mathbf 1 = b

    Differentiable in cost, masses and ``epsilon``, in both modes, at any order: exactly, by the implicit function
    theorem on the column sums, not through iterations. The search is Newton's method on the dual, safeguarded by
    Sinkhorn's, in stages of falling strength, and in float64 for float32 data too: a small ``epsilon`` stays finite,
    and the plan tends to an optimal one of the unsmoothed problem. Column sums count as right to 1e-8 of the total
    (float32: 1e-6); the search aims at 1e-12. Where ``epsilon`` is below some 1e-4 of the range of the costs, uneven
    masses may take more than ``max_steps``. Masses may be zero, where derivatives are one-sided, and costs ``inf``,
    which forbids the pair.

    Args:
        epsilon: strength of the smoothing, in the units of the cost: a positive number, or a tensor ``(*batch)``; a
            parameter is learned.
        max_steps: limit on the steps of the search.
        throw: raise :class:`~optlayers.SolveError` if a sample fails; otherwise its plan is NaN with gradient zero.

    References: Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport" (2013); Luise et al.,
    "Differential properties of Sinkhorn approximation for learning with Wasserstein distance" (2018).
    """

    def __init__(self, epsilon: float | Tensor = 0.1, *, max_steps: int = 200, throw: bool = True):
        super().__init__()
        if isinstance(epsilon, nn.Parameter):
            self.epsilon = epsilon
        elif isinstance(epsilon, Tensor):
            self.register_buffer("epsilon", epsilon)
        elif not epsilon > 0:
            raise ValueError(f"OptimalTransport: epsilon is {epsilon}; expected a positive number.")
        else:
            self.epsilon = float(epsilon)
        self.max_steps = max_steps
        self.throw = throw

    def forward(self, cost: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """The plan ``(*batch, n, m)``; as :meth:`solve`."""
        plan = self.solve(cost, a, b).x
        assert isinstance(plan, Tensor)
        return plan

    def solve(self, cost: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Solution:
        """The plan, and for each sample its status, steps, and the error of its column sums ``(*batch, 1)``.

        Args:
            cost: ``(*batch, n, m)`` float32 or float64.
            a: ``(*batch, n)`` masses, nonnegative; leading dimensions broadcast. Uniform of total one without.
            b: ``(*batch, m)`` likewise. It is scaled to the total of ``a``, which it must have up to 1e-3.

        Raises:
            ValueError: shapes or dtypes that do not fit.
            SolveError: masses that are negative or of different totals, or a search that failed; with ``throw``.
        """
        cost, a, b, epsilon = _checked(cost, a, b, self.epsilon)
        if cost.shape[-1] > cost.shape[-2]:  # the unknowns are those of the shorter side
            found = self._solve(cost.mT, b * _total(a) / _total(b), a, epsilon, a, b)
            return found._replace(x=found.x.mT)
        return self._solve(cost, a, b, epsilon, a, b)

    def _solve(self, cost: Tensor, a: Tensor, b: Tensor, epsilon: Tensor, given_a: Tensor, given_b: Tensor) -> Solution:
        dtype, shape = cost.dtype, cost.shape
        finite = ~torch.isposinf(cost)
        M = torch.where(finite, torch.where(finite, cost, 0.0).double() / epsilon.double()[..., None, None], torch.inf)
        a, b = a.double(), b.double()
        total = _total(a)
        with torch.no_grad():
            valid = (epsilon > 0) & ~torch.isnan(M).any(-1).any(-1) & ~torch.isneginf(M).any(-1).any(-1)
            for mass in (given_a, given_b):
                valid = valid & (mass >= 0).all(-1) & (mass.sum(-1) > 0) & torch.isfinite(mass.sum(-1))
            valid = valid & ((given_a.sum(-1) - given_b.sum(-1)).abs() <= 1e-3 * given_a.sum(-1))

        def keep(value: Tensor, other: float, mask: Tensor) -> Tensor:
            """Samples that fail are replaced by ones that do not, so that nothing of theirs reaches a gradient."""
            return torch.where(mask.reshape(mask.shape + (1,) * (value.dim() - mask.dim())), value, other)

        def data(mask: Tensor) -> list[Tensor]:
            masses = [keep(mass, 1.0, mask) for mass in (a, b)]
            return [keep(M, 0.0, mask), *[mass / _total(mass) for mass in masses]]

        flat = [value.reshape(-1, *value.shape[len(shape) - 2 :]) for value in data(valid)]
        w, error, steps = transport_scaling(*flat, _AIM, self.max_steps)
        w, error, steps = w.reshape(b.shape), error.reshape(valid.shape), steps.reshape(valid.shape)
        status = torch.where(error <= _ENOUGH[dtype], int(Status.SOLVED), int(Status.MAX_STEPS))
        status = torch.where(torch.isnan(error), int(Status.NUMERICAL_ERROR), status)
        status = torch.where(valid, status, int(Status.INVALID_INPUT))
        outcome = Outcome("OptimalTransport", w, status, steps, error.to(dtype)[..., None], throw=self.throw)
        args = data(outcome.solved)
        (w,) = attach(_Marginals(), [keep(w, 0.0, outcome.solved)], args)
        plan = args[1][..., None] * plan_density(args[0], args[2], w)[0] * args[2][..., None, :]
        return outcome.solution((keep(total, 1.0, outcome.solved)[..., None] * plan).to(dtype))

    def extra_repr(self) -> str:
        epsilon = tuple(self.epsilon.shape) if isinstance(self.epsilon, Tensor) else self.epsilon
        return f"epsilon={epsilon}"


class _Marginals(Rule):
    """The scaling ``w (*batch, m)`` as the root of ``sum_i a_i S_ij - 1 + b'w``, for arguments ``M, a, b``."""

    differentiable = (True, True, True)

    def residual(self, x, args):
        (w,), (M, a, b) = x, args
        S, _ = plan_density(M, b, w)
        return [(a[..., None] * S).sum(-2) - 1 + (b * w).sum(-1, keepdim=True)]

    def solve_linear(self, x, args, rhs, transpose):
        (w,), (M, a, b) = x, args
        return [solve_marginals(plan_density(M, b, w)[0], a, b, rhs[0], transpose)]


def _total(mass: Tensor) -> Tensor:
    return mass.sum(-1, keepdim=True)


def _checked(
    cost: Tensor, a: Tensor | None, b: Tensor | None, epsilon: float | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All four as tensors of one batch."""
    name = "OptimalTransport"
    given = epsilon if isinstance(epsilon, Tensor) else None
    check_tensors(name, {"cost": cost, "a": a, "b": b, "epsilon": given})
    check_shape(name, "cost", cost, ("n", "m"))
    n, m = cost.shape[-2:]
    if n == 0 or m == 0:
        raise ValueError(f"{name}: cost has shape {tuple(cost.shape)}; expected at least one row and one column.")
    a = cost.new_full((n,), 1 / n) if a is None else a
    b = cost.new_full((m,), 1 / m) if b is None else b
    check_shape(name, "a", a, (n,), "as cost has {} rows", n)
    check_shape(name, "b", b, (m,), "as cost has {} columns", m)
    strength = cost.new_tensor(epsilon) if given is None else given
    batch = broadcast_batch(name, {"cost": (cost, 2), "a": (a, 1), "b": (b, 1), "epsilon": (strength, 0)})
    return cost.expand(*batch, n, m), a.expand(*batch, n), b.expand(*batch, m), strength.expand(batch)
