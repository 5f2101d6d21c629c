"""Random quadratic programs with their solutions and gradients by LU on the active set: what solvers are held to."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from runner import torch_threads
from torch import Tensor


class Problem(NamedTuple):
    """``min 1/2 x'Qx + p'x  s.t.  Gx <= h, Ax = b``, each array with one batch dimension in front."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor


class Point(NamedTuple):
    """A solution ``x`` with the multipliers of the equalities ``y`` and of the inequalities ``z``."""

    x: Tensor
    y: Tensor
    z: Tensor


Arrays = TypeVar("Arrays", Problem, Point)


def cast(arrays: Arrays, dtype: torch.dtype) -> Arrays:
    """The same in another precision."""
    return type(arrays)(*(array.to(dtype) for array in arrays))


def random_problem(batch: int, n: int, m: int, p: int, seed: int = 0) -> Problem:
    """Feasible, well scaled and mostly strictly complementary: ``Q = LL'/n + 0.01 I``, all else standard normal."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=random, dtype=torch.float64)

    L, x0 = normal(n, n), normal(n)
    G, A = normal(m, n), normal(p, n)
    slack = torch.rand(batch, m, generator=random, dtype=torch.float64)
    Q = L @ L.mT / n + 0.01 * torch.eye(n, dtype=torch.float64)
    return Problem(Q, normal(n), G, _mv(G, x0) + slack, A, _mv(A, x0))


def kkt_residual(problem: Problem, point: Point) -> float:
    """The largest absolute violation over the batch of stationarity, ``Ax = b`` and ``min(z, h - Gx) = 0``."""
    Q, p, G, h, A, b = problem
    x, y, z = point
    stationarity = _mv(Q, x) + p + _mv(G.mT, z) + _mv(A.mT, y)
    violations = [stationarity, _mv(A, x) - b, torch.minimum(z, h - _mv(G, x))]
    return torch.cat(violations, dim=-1).abs().max().item()  # NaN wins a max


def solve_exactly(problem: Problem, near: Point, cotangent: Tensor) -> tuple[Point, Problem]:
    """The solution, and the gradient of ``cotangent'x`` in every argument, to rounding.

    On the right active set the KKT conditions are the linear equations ``K (x, y, z) = rhs``, where an inactive
    inequality reads ``z = 0``. The set is guessed from `near` and mended until all signs hold, which proves it right.

    Raises:
        RuntimeError: no such set was found; the problem may lack strict complementarity.
    """
    Q, p, G, h, A, b = problem
    n, equalities = Q.shape[-1], A.shape[-2]
    active = near.z > h - _mv(G, near.x)
    for _ in range(10):
        on = active.to(Q.dtype)
        G_on = on.unsqueeze(-1) * G
        K = torch.zeros(len(Q), *2 * [n + equalities + G.shape[-2]], dtype=Q.dtype)
        K[:, :n] = torch.cat([Q, A.mT, G.mT], dim=-1)
        K[:, n : n + equalities, :n] = A
        K[:, n + equalities :, :n] = G_on
        K[:, n + equalities :, n + equalities :] = torch.diag_embed(1 - on)
        with torch_threads(1):  # see torch_threads
            factors = torch.linalg.lu_factor(K)
        x, y, z = _split(_refined_solve(K, factors, torch.cat([-p, b, on * h], dim=-1), adjoint=False), n, equalities)
        wrong = torch.where(active, z < 0, h - _mv(G, x) < 0)
        if not wrong.any():
            break
        active = active ^ wrong
    else:
        raise RuntimeError("solve_exactly: no active set has the right signs; choose another seed.")

    rhs = torch.cat([cotangent, torch.zeros_like(y), torch.zeros_like(z)], dim=-1)
    u, v, w = _split(_refined_solve(K, factors, rhs, adjoint=True), n, equalities)
    w = on * w
    # -u'dQ x, -u'dp, ...: the derivative of -(u, v, w)' (K (x, y, z) - rhs) in each argument
    gradient = Problem(
        Q=-0.5 * (_outer(u, x) + _outer(x, u)),
        p=-u,
        G=-_outer(z, u) - _outer(w, x),
        h=w,
        A=-_outer(y, u) - _outer(v, x),
        b=v,
    )
    return Point(x, y, z), gradient


def gradient_error(gradient: Problem, exact: Problem) -> float:
    """The largest relative error over arguments and samples, in the maximum norm.

    A sample whose gradient is below a hundredth of the batch's largest is measured against that hundredth. Only the
    symmetric part of the gradient in Q counts: the rest is a matter of convention.
    """
    gradient = gradient._replace(Q=0.5 * (gradient.Q + gradient.Q.mT))
    worst = []
    for computed, right in zip(gradient, exact, strict=True):
        if right.numel() == 0:
            continue
        scale = right.abs().flatten(1).amax(dim=1)
        error = (computed - right).abs().flatten(1).amax(dim=1)
        worst.append((error / torch.maximum(scale, 0.01 * scale.max())).max())
    return torch.stack(worst).max().item()


def _refined_solve(K: Tensor, factors: tuple[Tensor, Tensor], rhs: Tensor, adjoint: bool) -> Tensor:
    """Solve with `K`, transposed if `adjoint`, and one step of iterative refinement."""

    def solve(rhs: Tensor) -> Tensor:
        return torch.linalg.lu_solve(*factors, rhs.unsqueeze(-1), adjoint=adjoint).squeeze(-1)

    first = solve(rhs)
    return first + solve(rhs - _mv(K.mT if adjoint else K, first))


def _split(vector: Tensor, n: int, equalities: int) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = vector.tensor_split([n, n + equalities], dim=-1)
    return x, y, z


def _mv(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left.unsqueeze(-1) * right.unsqueeze(-2)
