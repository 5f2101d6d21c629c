"""Families of random smooth convex programs: torch functions of one sample, and the same in cvxpy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.optimize
import torch
from torch import Tensor

F64 = torch.float64


@dataclass(frozen=True)
class Family:
    """A program ``min f  s.t.  h = 0, g <= 0, low <= x_0 <= high``; `model` builds it of cvxpy's atoms.

    `data` makes the arguments of a batch around a feasible point ``x0 (B, n)``; `positive` says that ``x > 0`` is the
    domain.
    """

    name: str
    objective: Callable[..., Tensor]
    equality: Callable[..., Tensor] | None
    inequality: Callable[..., Tensor] | None
    data: Callable[[Tensor], tuple[Tensor, ...]]
    model: Callable[..., tuple[Any, list[Any]]]
    positive: bool = False

    def draw(self, batch: int, n: int = 6, infeasible: int = 0) -> tuple[Tensor, ...]:
        """Arguments of a batch, the last `infeasible` samples of which have no feasible point."""
        x0 = torch.rand(batch, n, dtype=F64) + 0.1 if self.positive else torch.randn(batch, n, dtype=F64)
        high = x0[:, 0] + torch.rand(batch, dtype=F64)
        low = high - 3
        low[batch - infeasible :] = high[batch - infeasible :] + 1
        return *self.data(x0), torch.stack([low, high], -1)

    def functions(self) -> dict[str, Any]:
        """The keyword arguments of OptLayer."""

        def inequality(x: Tensor, *args: Tensor) -> Tensor:
            low, high = args[-1]
            box = torch.stack([low - x[0], x[0] - high])
            return box if self.inequality is None else torch.cat([self.inequality(x, *args), box])

        return {"objective": self.objective, "equality": self.equality, "inequality": inequality}

    def init(self, n: int = 6) -> Tensor:
        return torch.ones(n, dtype=F64) if self.positive else torch.zeros(n, dtype=F64)

    def oracle(self, n: int, args: tuple[Tensor, ...]) -> np.ndarray | None:
        """The minimizer of one sample by Clarabel, refined by SLSQP; None if Clarabel says infeasible.

        Clarabel's objective is good to 1e-10 or so, and x therefore to 1e-5.
        """
        args = tuple(arg.detach() for arg in args)
        *own, (low, high) = (arg.numpy() for arg in args)
        x = cp.Variable(n)
        cost, constraints = self.model(x, *own)
        problem = cp.Problem(cp.Minimize(cost), [*constraints, x[0] >= low, x[0] <= high])
        problem.solve(solver=cp.CLARABEL)
        if problem.status != "optimal":
            return None
        functions = self.functions()
        rows = [
            {"type": kind, **_numpy(functions[name], args, sign)}
            for kind, name, sign in (("eq", "equality", 1), ("ineq", "inequality", -1))
            if functions[name] is not None
        ]
        cost = _numpy(functions["objective"], args)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it clips, and says so
            refined = scipy.optimize.minimize(
                cost["fun"], x.value, jac=cost["jac"], method="SLSQP", constraints=rows, options={"ftol": 1e-16}
            )
        return refined.x


def _numpy(fn: Callable[..., Tensor], args: tuple[Tensor, ...], sign: int = 1) -> dict[str, Any]:
    jacobian = torch.func.jacrev(fn)

    def at(function: Callable[..., Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: sign * function(torch.from_numpy(x), *args).numpy()

    return {"fun": at(fn), "jac": at(jacobian)}


def _matvec(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x.unsqueeze(-1)).squeeze(-1)


def _randn(x0: Tensor, *shape: int) -> Tensor:
    return torch.randn(len(x0), *shape, dtype=F64)


def _entropy(x0: Tensor) -> tuple[Tensor, ...]:
    v, A, G = _randn(x0, x0.shape[1]), _randn(x0, 2, x0.shape[1]), _randn(x0, 3, x0.shape[1])
    return v, A, _matvec(A, x0), G, _matvec(G, x0) + 0.3


def _barrier(x0: Tensor) -> tuple[Tensor, ...]:
    A = _randn(x0, 2, x0.shape[1])
    return torch.rand_like(x0) + 0.5, A, _matvec(A, x0)


def _norm(x0: Tensor) -> tuple[Tensor, ...]:
    A, v, G = _randn(x0, 9, x0.shape[1]), 2 * _randn(x0, 9), _randn(x0, 5, x0.shape[1])
    return A, v, G, _matvec(G, x0) + 0.3


def _geometric(x0: Tensor) -> tuple[Tensor, ...]:
    A, b, G = _randn(x0, 12, x0.shape[1]), _randn(x0, 12), _randn(x0, 4, x0.shape[1])
    return A, b, G, torch.logsumexp(_matvec(G, x0), -1) + 0.3


def _cone(x0: Tensor) -> tuple[Tensor, ...]:
    A, b, c = _randn(x0, 8, x0.shape[1]), _randn(x0, 8), _randn(x0, x0.shape[1])
    reach = torch.linalg.vector_norm(_matvec(A, x0) + b, dim=-1) - (c * x0).sum(-1) + 0.5
    return _randn(x0, x0.shape[1]), A, b, c, reach


def _logistic(x0: Tensor) -> tuple[Tensor, ...]:
    X = _randn(x0, 20, x0.shape[1])
    return X * torch.sign(_randn(x0, 20)).unsqueeze(-1), (x0 - x0.mean(-1, keepdim=True)).square().sum(-1) + 0.3


FAMILIES = [
    Family(
        "entropy",
        lambda x, v, A, b, G, h, box: (x * x.log()).sum() - v @ x,
        lambda x, v, A, b, G, h, box: A @ x - b,
        lambda x, v, A, b, G, h, box: G @ x - h,
        _entropy,
        lambda x, v, A, b, G, h: (-cp.sum(cp.entr(x)) - v @ x, [A @ x == b, G @ x <= h]),
        positive=True,
    ),
    Family(
        "log-barrier",
        lambda x, c, A, b, box: c @ x - x.log().sum(),
        lambda x, c, A, b, box: A @ x - b,
        None,
        _barrier,
        lambda x, c, A, b: (c @ x - cp.sum(cp.log(x)), [A @ x == b]),
        positive=True,
    ),
    Family(
        "p-norm",
        lambda x, A, v, G, h, box: (A @ x - v).abs().pow(3).sum(),
        None,
        lambda x, A, v, G, h, box: G @ x - h,
        _norm,
        lambda x, A, v, G, h: (cp.sum(cp.power(cp.abs(A @ x - v), 3)), [G @ x <= h]),
    ),
    Family(
        "geometric",
        lambda x, A, b, G, h, box: torch.logsumexp(A @ x + b, 0),
        None,
        lambda x, A, b, G, h, box: torch.cat([torch.logsumexp(G @ x, 0)[None] - h, x - 4, -4 - x]),
        _geometric,
        lambda x, A, b, G, h: (cp.log_sum_exp(A @ x + b), [cp.log_sum_exp(G @ x) <= h, x <= 4, x >= -4]),
    ),
    Family(
        "second-order cone",
        lambda x, q, A, b, c, d, box: q @ x + 0.05 * x.square().sum(),
        None,
        lambda x, q, A, b, c, d, box: (torch.linalg.vector_norm(A @ x + b) - c @ x - d)[None],
        _cone,
        lambda x, q, A, b, c, d: (q @ x + 0.05 * cp.sum_squares(x), [cp.norm(A @ x + b) <= c @ x + d]),
    ),
    Family(
        "logistic",
        lambda x, X, r, box: torch.nn.functional.softplus(-X @ x).sum(),
        None,
        lambda x, X, r, box: ((x - x.mean()).square().sum() - r)[None],
        _logistic,
        lambda x, X, r: (cp.sum(cp.logistic(-X @ x)), [cp.sum_squares(x - cp.sum(x) / 6) <= r]),
    ),
]
