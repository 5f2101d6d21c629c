"""How far a few training data, moved a little, spoil a classifier: an attack through the program that fits it.

The task: logistic regression with an elastic net is fitted to 40 tumours, two measurements each. Who may move every
measurement by a tenth of its standard deviation, and knows the data that the fit is judged on, follows the gradient of
that loss through the fit: an exponential-cone program in which the training data are a parameter. The worst of 20
random moves of the same size does a third of that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cvxpy as cp
import matplotlib
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TRAINING, TEST, BUDGET = 40, 200, 0.1


def tumours() -> tuple[Tensor, Tensor]:
    """Mean radius and mean texture, standardised, and whether a tumour is benign, in random order."""
    data, target = load_breast_cancer(return_X_y=True)
    x, y = torch.from_numpy(data[:, :2]), torch.from_numpy(target).double()
    x = (x - x.mean(0)) / x.std(0)
    order = torch.randperm(len(x))[: TRAINING + TEST]
    return x[order], y[order]


def fit(y: Tensor) -> ol.CvxpyLayer:
    """A layer: training data ``(40, 2)`` to the coefficients and the offset of logistic regression."""
    x, a, b = cp.Parameter((TRAINING, 2)), cp.Variable(2), cp.Variable()
    score = x @ a + b
    loss = (cp.sum(cp.logistic(score)) - y.numpy() @ score) / TRAINING
    problem = cp.Problem(cp.Minimize(loss + 0.02 * cp.norm1(a) + 0.02 * cp.sum_squares(a)))
    return ol.CvxpyLayer(problem, [x], [a, b])


def main() -> None:
    parser = argparse.ArgumentParser(description="Poison the training data of logistic regression.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("outputs/data_poisoning"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    x, y = tumours()
    layer = fit(y[:TRAINING])
    start, rest, labels = x[:TRAINING], x[TRAINING:], y[TRAINING:]

    def spoiled(data: Tensor) -> Tensor:
        """The loss on the data that were not moved."""
        a, b = layer(data)
        return nn.functional.binary_cross_entropy_with_logits((a @ rest.T) + b.unsqueeze(-1), labels.expand(len(a), -1))

    move, losses = torch.zeros_like(start, requires_grad=True), []
    predicted = 0.0
    for step in tqdm(range(options.steps), leave=False, disable=None):
        loss = spoiled((start + move).unsqueeze(0))
        (grad,) = torch.autograd.grad(loss, move)
        losses.append(loss.item())
        if step == 0:
            predicted = BUDGET * grad.abs().sum().item()
        with torch.no_grad():  # the direction of steepest ascent in the largest entry
            move += 3 * BUDGET / options.steps * grad.sign()
            move.clamp_(-BUDGET, BUDGET)
    with torch.no_grad():
        losses.append(spoiled((start + move).unsqueeze(0)).item())
        signs = torch.randint(0, 2, (20, *start.shape)) * 2.0 - 1
        random = max(spoiled((start + BUDGET * sign).unsqueeze(0)).item() for sign in signs)
        before, after = (layer(data) for data in (start, start + move))
    print(f"loss on the test data: {losses[0]:.4f} as fitted, {random:.4f} after the worst of 20 random moves")
    print(f"after the attack: {losses[-1]:.5f}; the first gradient predicted {losses[0] + predicted:.4f}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    left.plot(losses, label="attack")
    left.axhline(random, color="C1", label="worst of 20 random moves")
    left.set(xlabel="step", ylabel="loss on the test data")
    left.legend()
    for kind, marker in ((0.0, "+"), (1.0, ".")):
        chosen = y[:TRAINING] == kind
        right.scatter(*start[chosen].T, marker=marker, label="benign" if kind else "malignant")
    right.quiver(*start.T, *move.detach().T, angles="xy", scale_units="xy", scale=0.3, width=0.004)
    axis = torch.linspace(-2, 2.5, 2)
    for (a, b), style in ((before, "k-"), (after, "k--")):
        right.plot(axis, -(a[0] * axis + b) / a[1], style)
    right.set(xlabel="mean radius", ylabel="mean texture", xlim=(-2, 2.5), ylim=(-2.5, 3))
    right.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "data_poisoning.png", dpi=120)
    print(f"figure: {options.out}/data_poisoning.png")


if __name__ == "__main__":
    main()
