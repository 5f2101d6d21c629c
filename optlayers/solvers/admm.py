"""ADMM for batches of dense quadratic programs: one factorization for all that share their matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import choose, iterate
from .._base.status import Status
from .admm_program import Splitting, split
from .warm_start import Guess, guessed_set, is_convex, solve_active

RELAXATION = 1.6
CHECK = 25  # iterations between two looks at the residuals
RETUNE = 5.0  # rho changes where its best guess is off by more than this factor
RHO = (1e-6, 1e6)
ROUGH = 1e-5  # residual at which an exact solve on the active set is tried
CERTIFICATE = 1e-7  # residual of a certificate of infeasibility, relative to the certificate


class _State(NamedTuple):
    """All in scaled units, see :class:`Splitting`."""

    x: Tensor  # (B, n)
    z: Tensor  # (B, N) copy of the rows C x, within their bounds
    y: Tensor  # (B, N) multipliers
    rho: Tensor  # (B, 1)
    residuals: Tensor  # (B, 2) relative: primal, dual
    dx: Tensor  # (B, n) the last change: a certificate in the limit
    dy: Tensor  # (B, N)
    rounds: Tensor  # (B,) int64


@dataclass(frozen=True)
class ADMM:
    r"""Operator splitting in the form of OSQP, with over-relaxation, for ``l <= C x <= u``.

    .. math:: (Q + \sigma I + \rho C^\top W C)\, \tilde x = \sigma x - p + C^\top(\rho W z - y), \qquad
              z \leftarrow \Pi_{[l, u]}(C \tilde x + y / \rho W), \quad y \leftarrow y + \rho W (C \tilde x - z)

    Cheap steps, many of them: of use for large batches that share ``Q``, ``G`` and ``A``. The matrix is diagonalized
    jointly with ``C' W C``, once for all samples that share it and for every ``rho``, so that each sample tunes its own
    ``rho`` at no cost. Once the residuals are small, the exact solution on the active set they show is tried, and
    accepted if it satisfies the KKT conditions.

    Args:
        eps: relative tolerance on the KKT residuals. None: 1e-9 in float64, 1e-5 in float32.
        max_steps: limit on the iterations per sample, rounded up to multiples of 25.

    References: Stellato et al., "OSQP: an operator splitting solver for quadratic programs" (2020); Banjac et al.,
        "Infeasibility detection in the alternating direction method of multipliers for convex optimization" (2019).
    """

    eps: float | None = None
    max_steps: int = 10000

    def __call__(self, data: Sequence[Tensor], guess: Guess | None = None) -> list[Tensor]:
        """Solve for ``(Q, p, G, h, A, b, lb, ub)``, each with one batch dimension; see :func:`ops.qp_solve`."""
        dtype = data[1].dtype
        eps = self.eps if self.eps is not None else (1e-9 if dtype == torch.float64 else 1e-5)
        valid = _valid(data)
        data = [_cleared(valid, t).to(torch.float64) for t in data]
        problem = split(*data)
        state = _start(problem, guess)
        rounds = -(-self.max_steps // CHECK)
        values, solved = None, torch.zeros_like(valid)
        for target in (max(eps, ROUGH), eps):  # roughly, and then to eps where no active set was found

            def done(at: _State, target: float = target, solved: Tensor = solved) -> Tensor:
                return solved | _converged(at, target) | _verdict(problem, at)[0] | (at.rounds >= rounds)

            state = iterate(lambda at: _round(problem, at), state, done, rounds).state
            guess = Guess(*(problem.unscaled(state.x, state.y)[i] for i in (0, 2, 3, 4)))
            exact, accepted = solve_active(data, guessed_set(data, guess), eps)
            found, take = [*exact[:9], exact[11]], accepted & _converged(state, target) & ~solved
            values = found if values is None else choose(take, found, values)
            solved = solved | take
        assert values is not None

        infeasible, primal = _verdict(problem, state)
        at_tolerance = ~solved & _converged(state, eps)
        status = torch.where(
            infeasible,
            torch.where(primal, int(Status.PRIMAL_INFEASIBLE), int(Status.DUAL_INFEASIBLE)),
            int(Status.MAX_STEPS),
        )
        status = torch.where(solved | at_tolerance, int(Status.SOLVED), status)
        status = torch.where(valid, status, int(Status.INVALID_INPUT))
        own = choose(infeasible & ~solved & ~at_tolerance, _certificate(problem, state), (state.x, state.y))
        x, y, z, z_lb, z_ub = problem.unscaled(*own)
        s = problem.h - (problem.G @ x[..., None]).squeeze(-1)
        gap = torch.zeros_like(state.residuals[:, :1])
        masks = guessed_set(data, Guess(x, z, z_lb, z_ub))
        iterated = [x, y, z, z_lb, z_ub, s, *masks, torch.cat([state.residuals, gap], -1)]
        *values, residuals = choose(solved, values, iterated)
        values = [choose(valid, v, torch.full_like(v, torch.nan)).to(dtype) for v in values[:6]] + [
            mask & valid[:, None] for mask in values[6:]
        ]
        residuals = choose(valid, residuals, torch.full_like(residuals, torch.nan)).to(dtype)
        return [*values, status, CHECK * state.rounds, residuals]

    def unrolled(self, data: Sequence[Tensor]) -> list[Tensor]:
        """Not offered: the diagonalization has no derivative where eigenvalues coincide."""
        raise ValueError("solve_qp: ol.ADMM cannot be unrolled; expected adjoint=ol.Implicit(), or ol.InteriorPoint.")


def _start(problem: Splitting, guess: Guess | None) -> _State:
    x = torch.zeros_like(problem.p)
    y = torch.zeros_like(problem.lower)
    if guess is not None:
        x, y = problem.scaled(*(t.to(torch.float64) for t in guess))
    z = torch.minimum(torch.maximum(problem.rows(x), problem.lower), problem.upper)
    rho = torch.full_like(x[:, :1], 0.1)
    residuals, _ = _residuals(problem, x, z, y)
    rounds = torch.zeros_like(x[:, 0], dtype=torch.int64)
    return _State(x, z, y, rho, residuals, torch.zeros_like(x), torch.zeros_like(y), rounds)


def _round(problem: Splitting, at: _State) -> _State:
    """So many iterations, a look at the residuals, and a better rho."""
    x, z, y, weight = at.x, at.z, at.y, at.rho * problem.weight
    last = x, y
    for _ in range(CHECK):
        last = x, y
        target = problem.solve(at.rho, problem.sigma * x - problem.p + problem.adjoint(weight * z - y))
        ahead = RELAXATION * problem.rows(target) + (1 - RELAXATION) * z
        x = RELAXATION * target + (1 - RELAXATION) * x
        z = torch.minimum(torch.maximum(ahead + y / weight, problem.lower), problem.upper)
        y = y + weight * (ahead - z)
    residuals, balance = _residuals(problem, x, z, y)
    best = (at.rho * balance).clamp(*RHO)
    off = torch.maximum(best / at.rho, at.rho / best) > RETUNE
    return _State(x, z, y, torch.where(off, best, at.rho), residuals, x - last[0], y - last[1], at.rounds + 1)


def _residuals(problem: Splitting, x: Tensor, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Primal and dual residual (B, 2), relative to what they are sums of, and the factor (B, 1) that rho is off by."""
    Cx, Qx, Cy = problem.rows(x), problem.quadratic(x), problem.adjoint(y)
    row, column = problem.row_units, problem.column_units
    primal = _largest((Cx - z) * row) / (1 + torch.maximum(_largest(Cx * row), _largest(z * row)))
    forces = torch.maximum(torch.maximum(_largest(Qx * column), _largest(Cy * column)), _largest(problem.p * column))
    dual = _largest((Qx + problem.p + Cy) * column) / forces.clamp(min=torch.finfo(x.dtype).tiny)
    tiny = 1e-12
    return torch.cat([primal, dual], -1), (primal.clamp(min=tiny) / dual.clamp(min=tiny)).sqrt()


def _converged(at: _State, eps: float) -> Tensor:
    return (at.residuals <= eps).all(-1)


def _certificate(problem: Splitting, at: _State) -> tuple[Tensor, Tensor]:
    """The last changes, with max-norm one in the units of the user."""
    x, *multipliers = problem.unscaled(at.dx, at.dy)
    size = _largest(torch.cat(multipliers, -1))
    return at.dx / torch.where(_largest(x) > 0, _largest(x), 1.0), at.dy / torch.where(size > 0, size, 1.0)


def _verdict(problem: Splitting, at: _State) -> tuple[Tensor, Tensor]:
    """(B,) infeasible, and (B,) of which kind: no point at all, rather than no least one."""
    y, size = at.dy, _largest(at.dy).clamp(min=torch.finfo(at.dy.dtype).tiny)
    up, down = y.clamp(min=0), y.clamp(max=0)
    no_upper, no_lower = problem.upper.isinf(), problem.lower.isinf()
    loose = torch.where(no_upper, up, 0.0) - torch.where(no_lower, down, 0.0)  # pushes against no bound at all
    gain = torch.where(no_upper, 0.0, problem.upper) * up + torch.where(no_lower, 0.0, problem.lower) * down
    gain = gain.sum(-1, keepdim=True)
    leak = torch.maximum(_largest(problem.adjoint(y)), _largest(loose)) / size
    primal = (leak <= CERTIFICATE) & (gain / size < -100 * CERTIFICATE) & (size > 1e-10)

    x, size = at.dx, _largest(at.dx).clamp(min=torch.finfo(at.dx.dtype).tiny)
    Cx = problem.rows(x)
    outward = torch.where(no_upper, 0.0, Cx.clamp(min=0)) - torch.where(no_lower, 0.0, Cx.clamp(max=0))
    leak = torch.maximum(_largest(problem.quadratic(x)), _largest(outward)) / size
    slope = (problem.p * x).sum(-1, keepdim=True) / size
    dual = (leak <= CERTIFICATE) & (slope < -100 * CERTIFICATE) & (size > 1e-10)
    return (primal | dual).squeeze(-1), primal.squeeze(-1)


def _valid(data: Sequence[Tensor]) -> Tensor:
    """(B,): a convex program in numbers, infinite only where a row may be absent."""
    Q, p, G, h, A, b, lb, ub = data
    tests = [torch.isfinite(t).flatten(1).all(-1) for t in (Q, p, G, A, b)]
    tests += [t.all(-1) for t in (h > -torch.inf, lb < torch.inf, ub > -torch.inf)]  # false for NaN too
    if lb.shape == ub.shape:
        tests.append((lb <= ub).all(-1))
    finite = torch.stack(torch.broadcast_tensors(*tests)).all(0)
    return finite & is_convex(Q)


def _cleared(valid: Tensor, value: Tensor) -> Tensor:
    """Zeros in place of what is no number, for samples that count no more; what is shared stays shared."""
    if value.shape[0] > 1 and value.stride(0) == 0:
        return value[:1].nan_to_num(0.0, torch.inf, -torch.inf).expand_as(value)
    mask = valid.reshape(-1, *[1] * (value.dim() - 1))
    return torch.where(mask, value, 0.0)


def _largest(v: Tensor) -> Tensor:
    return v.abs().amax(-1, keepdim=True) if v.shape[-1] else v.new_zeros(*v.shape[:-1], 1)
