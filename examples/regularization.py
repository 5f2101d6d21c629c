"""Regularization by the gradient of a cross-validation, beside a grid search that fits hundreds of models.

The lasso on scikit-learn's diabetes data, and a support vector machine with a radial kernel on its breast cancer data.
The error of a five-fold cross-validation is a function of the strength of the l1 term, or of the C and the width of
the kernel; it is differentiated through the five fits, which are one batch, and L-BFGS takes it from there. Both ways
are judged by the same criterion, scikit-learn computes that of the grid, and fits are counted.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LassoCV
from sklearn.svm import SVC
from torch import Tensor
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDS = 5


def folds(count: int) -> Tensor:
    """``(5, count)`` bool: what each fold trains on."""
    return torch.arange(count) % FOLDS != torch.arange(FOLDS)[:, None]


def soft(x: Tensor, threshold: Tensor) -> Tensor:
    return x.sign() * (x.abs() - threshold).clamp(min=0)


class Lasso:
    """``1/(2n) ||X w + b - y||^2 + exp(log) ||w||_1``, and its mean squared error on what is left out."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y, self.train = x, y, folds(len(y)).to(x)
        self.guess = {"w": x.new_zeros(FOLDS, x.shape[1]), "b": x.new_zeros(FOLDS)}

    def error(self, logs: Tensor) -> Tensor:
        def objective(v: dict[str, Tensor], train: Tensor) -> Tensor:
            return 0.5 * (train * (self.x @ v["w"] + v["b"] - self.y).square()).sum() / train.sum()

        def prox(v: dict[str, Tensor], step: Tensor | float) -> dict[str, Tensor]:
            return {"w": soft(v["w"], step * logs[0].exp()), "b": v["b"]}

        solver = ol.ProximalGradient(prox)
        fit = ol.minimise(objective, self.guess, (self.train,), in_dims=0, solver=solver).x
        self.guess = {name: value.detach() for name, value in fit.items()}
        left_out = (fit["w"] @ self.x.T + fit["b"][:, None] - self.y).square() * (1 - self.train)
        return (left_out.sum(1) / (1 - self.train).sum(1)).mean()

    def grid(self) -> tuple[Tensor, Tensor, int]:
        """The strengths and their errors by scikit-learn, and how many fits it took."""
        splits = [(mask.nonzero()[:, 0].numpy(), (~mask).nonzero()[:, 0].numpy()) for mask in self.train.bool()]
        found = LassoCV(cv=splits, tol=1e-6).fit(self.x.numpy(), self.y.numpy())
        errors = torch.tensor(found.mse_path_).mean(1)
        return torch.tensor(found.alphas_)[:, None], errors, FOLDS * len(errors)


class Machine:
    """The dual of a support vector machine with C and gamma, and the logistic loss of what is left out."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y, self.train = x, y, folds(len(y))
        self.index = torch.stack([mask.nonzero()[:, 0] for mask in self.train])
        self.rest = torch.stack([(~mask).nonzero()[:, 0] for mask in self.train])

    def error(self, logs: Tensor) -> Tensor:
        C, gamma = logs.exp()
        kernel = torch.exp(-gamma * torch.cdist(self.x, self.x).square())
        y = self.y[self.index]
        K = kernel[self.index[:, :, None], self.index[:, None]]
        zero = torch.zeros_like(y)
        fit = ol.solve_qp(
            y[:, :, None] * K * y[:, None], zero - 1, A=y[:, None], b=zero[:, :1], lb=zero, ub=C.expand_as(y)
        )
        # The multiplier of sum a_i y_i = 0 is the intercept.
        across = kernel[self.rest[:, :, None], self.index[:, None]]
        scores = (across @ (fit.x * y)[..., None])[..., 0] + fit.y
        return torch.nn.functional.softplus(-self.y[self.rest] * scores).mean()

    def grid(self) -> tuple[Tensor, Tensor, int]:
        points = torch.cartesian_prod(torch.logspace(-1, 3, 10), torch.logspace(-4, 0, 10)).to(self.x)
        errors = []
        for C, gamma in tqdm(points.tolist(), desc="grid", leave=False, disable=None):
            total = 0.0
            for index, rest in zip(self.index, self.rest, strict=True):
                fit = SVC(C=C, gamma=gamma, tol=1e-6).fit(self.x[index].numpy(), self.y[index].numpy())
                scores = torch.tensor(fit.decision_function(self.x[rest].numpy()))
                total += torch.nn.functional.softplus(-self.y[rest] * scores).mean().item() / FOLDS
            errors.append(total)
        return points, torch.tensor(errors), FOLDS * len(points)


def descend(error: Callable[[Tensor], Tensor], start: list[float], steps: int, name: str) -> tuple[Tensor, list[float]]:
    """L-BFGS on the logarithms; the point of least error, and the error of every evaluation, each of five fits."""
    logs, seen = torch.tensor(start, requires_grad=True), []
    best = logs.detach().clone()
    optimizer = torch.optim.LBFGS([logs], lr=0.5, max_iter=steps, max_eval=steps, line_search_fn="strong_wolfe")
    with tqdm(total=steps, desc=name, leave=False, disable=None) as bar:

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = error(logs)
            value.backward()
            if not seen or value.item() < min(seen):
                best.copy_(logs.detach())
            seen.append(value.item())
            bar.update()
            return value

        optimizer.step(closure)
    return best, seen


def main() -> None:
    parser = argparse.ArgumentParser(description="Tune regularization by gradient and by grid search.")
    parser.add_argument("--steps", type=int, default=20, help="evaluations of the cross-validation, at most")
    parser.add_argument("--samples", type=int, default=200, help="of the breast cancer data")
    parser.add_argument("--out", type=Path, default=Path("outputs/regularization"), help="folder for the figure")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of scikit-learn, about names of options
    x, y = (torch.tensor(part) for part in load_diabetes(return_X_y=True))
    lasso = Lasso((x - x.mean(0)) / x.std(0), y)
    x, y = (torch.tensor(part)[: options.samples] for part in load_breast_cancer(return_X_y=True))
    machine = Machine((x - x.mean(0)) / x.std(0), 2.0 * y - 1)

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    # Where they start: a guess, and scikit-learn's defaults.
    problems = {"lasso": (lasso, [3.0], ("strength",)), "SVM": (machine, [0.0, -3.4], ("C", "gamma"))}
    for axis, (name, (problem, start, names)) in zip(axes, problems.items(), strict=True):
        points, errors, grid_fits = problem.grid()
        best = points[errors.argmin()]
        logs, seen = descend(problem.error, start, options.steps, name)
        shown = (", ".join(f"{k} {v:.3g}" for k, v in zip(names, p.tolist(), strict=True)) for p in (best, logs.exp()))
        print(f"{name}, grid search: error {errors.min():.6g} at {next(shown)}, {grid_fits} fits")
        print(f"{name}, gradient: error {min(seen):.6g} at {next(shown)}, {FOLDS * len(seen)} fits")
        axis.plot([FOLDS * (k + 1) for k in range(len(seen))], seen, "o-", markersize=3, label="gradient")
        axis.axhline(errors.min(), color="gray", linestyle=":", label=f"grid, {grid_fits} fits")
        axis.set(title=name, xlabel="fits", ylabel="error of the cross-validation")
        axis.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "regularization.png", dpi=120)
    print(f"figure: {options.out}/regularization.png")


if __name__ == "__main__":
    main()
