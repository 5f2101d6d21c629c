"""`custom_root` around solvers of your own: scipy, a plain Python loop, a C library.

Each solves a problem with parameters in its own way, untracked; the equation that its answer satisfies is all that
the library needs for derivatives, of any order. Each is checked against a closed form or finite differences.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib
import scipy.optimize
import torch
from torch import Tensor
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def ridge_gradient(w: Tensor, X: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """The gradient of ``||Xw - y||^2 / 2 + strength ||w||^2 / 2``."""
    return X.T @ (X @ w - y) + strength * w


@ol.custom_root(ridge_gradient)
def ridge(init: Tensor, X: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """Ridge regression by scipy's L-BFGS."""

    def objective(w):
        w = torch.from_numpy(w)
        value = 0.5 * (X @ w - y).square().sum() + 0.5 * strength * w.square().sum()
        return value.item(), ridge_gradient(w, X, y, strength).numpy()

    options = {"maxiter": 1000, "ftol": 0.0, "gtol": 1e-12}
    return torch.from_numpy(scipy.optimize.minimize(objective, init, jac=True, method="L-BFGS-B", options=options).x)


def kepler(anomaly: Tensor, mean: Tensor, eccentricity: Tensor) -> Tensor:
    """Kepler's equation, which ties the place of a planet to the time; zero at the solution."""
    return anomaly - eccentricity * anomaly.sin() - mean


@ol.custom_root(kepler)
def orbit_by_loop(init: Tensor, mean: Tensor, eccentricity: Tensor) -> Tensor:
    """Bisection, one number at a time."""
    found = []
    for m, e in zip(mean.tolist(), eccentricity.tolist(), strict=True):
        low, high = m - e, m + e
        for _ in range(100):
            middle = (low + high) / 2
            residual = kepler(*torch.tensor([middle, m, e], dtype=torch.float64).unbind()).item()
            low, high = (middle, high) if residual < 0 else (low, middle)
        found.append((low + high) / 2)
    return torch.tensor(found, dtype=init.dtype)


SOURCE = """
#include <math.h>
void kepler(const double *mean, const double *eccentricity, double *anomaly, int count) {
    for (int i = 0; i < count; ++i)
        for (int step = 0; step < 50; ++step)
            anomaly[i] -= (anomaly[i] - eccentricity[i] * sin(anomaly[i]) - mean[i])
                          / (1 - eccentricity[i] * cos(anomaly[i]));
}
"""


def orbit_in_c(folder: str) -> Callable[..., Tensor]:
    """The same by Newton's method in a C library that is compiled here."""
    (Path(folder) / "kepler.c").write_text(SOURCE)
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit("own_solvers.py: no C compiler (cc, gcc, clang) on the path; install one.")
    library = str(Path(folder) / "libkepler.so")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, f"{folder}/kepler.c", "-lm"], check=True)
    solve = ctypes.CDLL(library).kepler

    @ol.custom_root(kepler)
    def orbit(init: Tensor, mean: Tensor, eccentricity: Tensor) -> Tensor:
        anomaly = init.clone().contiguous()
        arrays = [t.contiguous() for t in (mean, eccentricity, anomaly)]
        solve(*[ctypes.c_void_p(t.data_ptr()) for t in arrays], ctypes.c_int(anomaly.numel()))
        return anomaly

    return orbit


def main() -> None:
    parser = argparse.ArgumentParser(description="Differentiate scipy, a Python loop and a C library.")
    parser.add_argument("--steps", type=int, default=60, help="steps of tuning the strength of ridge regression")
    parser.add_argument("--out", type=Path, default=Path("outputs/own_solvers"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)

    X, truth = torch.randn(30, 10), torch.randn(10)
    y, X_test = X @ truth + 2 * torch.randn(30), torch.randn(200, 10)
    log_strength = torch.tensor(-3.0, requires_grad=True)
    exact = torch.linalg.solve(X.T @ X + log_strength.exp() * torch.eye(10), X.T @ y)
    found = ridge(torch.zeros(10), X, y, log_strength.exp())
    slopes = [torch.autograd.grad(w.square().sum(), log_strength)[0] for w in (found, exact)]
    print(f"scipy: gradient in the strength differs from the closed form by {(slopes[0] - slopes[1]).abs().item():.0e}")

    optimizer = torch.optim.Adam([log_strength], lr=0.2)
    losses = []
    for _ in tqdm(range(options.steps), desc="tuning ridge regression", leave=False, disable=None):
        loss = (X_test @ (ridge(torch.zeros(10), X, y, log_strength.exp()) - truth)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"scipy: error on unseen data {losses[0]:.3f} before, {min(losses):.3f} after tuning the strength")

    mean, eccentricity = torch.linspace(0, 6, 60), torch.linspace(0.1, 0.9, 60).requires_grad_()
    with tempfile.TemporaryDirectory() as folder:
        ways = {"Python loop": orbit_by_loop, "C library": orbit_in_c(folder)}
        for name, orbit in ways.items():
            anomaly = orbit(mean.clone(), mean, eccentricity)
            (slope,) = torch.autograd.grad(anomaly.sum(), eccentricity)
            want = anomaly.sin() / (1 - eccentricity * anomaly.cos())
            print(f"{name}: gradient of Kepler's equation differs by {(slope - want).abs().max().item():.0e}")
            assert (slope - want).abs().max() < 1e-8

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    left.plot(losses)
    left.set(xlabel="step", ylabel="error on unseen data", title="strength of a ridge solved by scipy")
    right.plot(mean, anomaly.detach(), label="anomaly")
    right.plot(mean, slope, label="its derivative in the eccentricity")
    right.set(xlabel="time", title="Kepler's equation solved in C")
    right.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "own_solvers.png", dpi=120)
    print(f"figure: {options.out}/own_solvers.png")


if __name__ == "__main__":
    main()
