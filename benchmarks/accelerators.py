"""What each accelerator of the QP engine is worth: time without it over time with it, on families it was not tuned on.

An accelerator is switched off by an environment variable that the kernels read once, so every column is a process of
its own. One thread, float64, forward only, processor time, the fastest of several calls; the processes take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

ACCELERATORS = ["crossover", "floats", "refill"]
SIZES = [(128, 12), (128, 40), (8, 100), (2, 200)]  # batch, variables
ROUNDS = 3
Problem = tuple[Tensor, ...]


def main() -> None:
    if "--worker" in sys.argv:
        print(json.dumps(measure()))
        return
    columns: dict[str, dict[str, float]] = {name: {} for name in ["", *ACCELERATORS]}
    for _ in range(ROUNDS):
        for name, column in columns.items():
            for key, seconds in run(name).items():
                column[key] = min(seconds, column.get(key, seconds))
    print("| family | batch, n | us a problem | " + " | ".join(f"without {name}" for name in ACCELERATORS) + " |")
    print("|---" * (3 + len(ACCELERATORS)) + "|")
    for key, best in columns[""].items():
        ratios = [f"{columns[name][key] / best:.2f}x" for name in ACCELERATORS]
        print(f"| {key} | {1e6 * best:.1f} | " + " | ".join(ratios) + " |")


def run(without: str) -> dict[str, float]:
    """All times with one accelerator switched off, from a process of its own."""
    environment = {**os.environ, "OPTLAYERS_WITHOUT": without}
    done = subprocess.run([sys.executable, __file__, "--worker"], env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure(calls: int = 5) -> dict[str, float]:
    """Seconds a problem."""
    from optlayers import solve_qp

    torch.set_num_threads(1)
    times = {}
    for batch, n in SIZES:
        for name, make in FAMILIES.items():
            torch.manual_seed(0)
            problem = make(batch, n)
            fastest = float("inf")
            for _ in range(calls):
                start = time.process_time()
                solve_qp(*problem)
                fastest = min(fastest, time.process_time() - start)
            times[f"{name} | {batch}, {n}"] = fastest / batch
    return times


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def eye(batch: int, n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64).expand(batch, n, n)


def box(batch: int, n: int) -> Problem:
    """A random objective in a box, many of whose walls are active."""
    L = normal(batch, n, n)
    Q = L @ L.mT / n + 0.01 * eye(batch, n)
    return Q, 0.5 * normal(batch, n), torch.cat([eye(batch, n), -eye(batch, n)], 1), 0.3 + 0 * normal(batch, 2 * n)


def portfolio(batch: int, n: int) -> Problem:
    """Factors and specific risks, long only, fully invested."""
    F = normal(batch, n, n // 10 + 1)
    Q = F @ F.mT + torch.diag_embed(0.1 * uniform(batch, n))
    ones = torch.ones(batch, 1, n, dtype=torch.float64)
    return Q, 0.1 * normal(batch, n), -eye(batch, n), 0 * normal(batch, n), ones, ones[..., 0]


def support_vectors(batch: int, n: int) -> Problem:
    """The dual of a support vector machine with a Gaussian kernel."""
    X = normal(batch, n, 4)
    y = (X[..., 0] + 0.5 * normal(batch, n)).sign()
    Q = y[:, :, None] * y[:, None] * torch.exp(-(torch.cdist(X, X) ** 2) / 4) + 1e-6 * eye(batch, n)
    h = torch.cat([2 + 0 * y, 0 * y], -1)
    return Q, -torch.ones_like(y), torch.cat([eye(batch, n), -eye(batch, n)], 1), h, y[:, None], 0 * y[:, :1]


def transport(batch: int, n: int) -> Problem:
    """Nearly a linear program, with dependent equalities: mass from four sources to n/4 sinks at random costs."""
    sinks = n // 4
    plan = uniform(batch, 4, sinks) * (uniform(batch, 4, sinks) < 0.5)
    A = torch.cat([torch.kron(torch.eye(4), torch.ones(1, sinks)), torch.kron(torch.ones(1, 4), torch.eye(sinks))])
    A = A.double().expand(batch, 4 + sinks, n)
    b = torch.cat([plan.sum(2), plan.sum(1)], -1)
    return 1e-4 * eye(batch, n), uniform(batch, n), -eye(batch, n), 0 * normal(batch, n), A, b


FAMILIES: dict[str, Callable[[int, int], Problem]] = {
    "box": box,
    "portfolio": portfolio,
    "support vectors": support_vectors,
    "transport": transport,
}


if __name__ == "__main__":
    main()
