"""Data hyper-cleaning: half the labels are wrong, and a few clean ones tell which, by the gradient in their weights.

Softmax regression on scikit-learn's digits, where half the training labels were drawn anew. Each training image has a
weight between 0 and 1; the regression with those weights is solved to its optimum, and the loss on a small clean set is
differentiated in all of the weights at once, through the optimality condition (Franceschi et al. 2017, Pedregosa 2016).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

cross_entropy = torch.nn.functional.cross_entropy


def objective(W: Tensor, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The weighted loss of softmax regression ``(65, 10)``, strongly convex."""
    losses = cross_entropy(x @ W, y, reduction="none")
    return (weights * losses).sum() / weights.sum() + 1e-3 * W.square().sum()


def fit(weights: Tensor, x: Tensor, y: Tensor, guess: Tensor | None = None) -> Tensor:
    init = torch.zeros(x.shape[1], 10) if guess is None else guess
    # 650 unknowns: L-BFGS finds them, and conjugate gradients solve the system of the gradient.
    adjoint = ol.Implicit(ol.linear_solve.CG(1e-6))
    return ol.minimise(objective, init, (weights, x, y), solver=ol.LBFGS(rtol=1e-6), adjoint=adjoint).x


def main() -> None:
    parser = argparse.ArgumentParser(description="Find spoiled labels by the gradient in their weights.")
    parser.add_argument("--steps", type=int, default=30, help="outer steps")
    parser.add_argument("--images", type=int, default=600, help="how many to train on")
    parser.add_argument("--out", type=Path, default=Path("outputs/hyper_cleaning"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    pixels, digits = (torch.tensor(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(digits))
    x, y = torch.cat([pixels / 16, torch.ones(len(pixels), 1)], 1)[order], digits[order]
    parts = (slice(0, options.images), slice(1000, 1100), slice(1200, None))
    (x, x_clean, x_unseen), (y, y_clean, y_unseen) = ([of[part] for part in parts] for of in (x, y))
    wrong = torch.rand(len(y)) < 0.5
    given = torch.where(wrong, (y + torch.randint(1, 10, y.shape)) % 10, y)

    def right(W: Tensor) -> float:
        return (x_unseen @ W).argmax(1).eq(y_unseen).double().mean().item()

    everything, truth = fit(torch.ones(len(y)), x, given), fit((~wrong).double(), x, given)
    few = fit(torch.ones(len(y_clean)), x_clean, y_clean)
    logits = torch.zeros(len(y), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=1.0)
    W, curve = everything, []
    for _ in tqdm(range(options.steps), leave=False, disable=None):
        W = fit(logits.sigmoid(), x, given, W.detach())
        loss = cross_entropy(x_clean @ W, y_clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append((loss.item(), right(W.detach())))
    weights = logits.detach().sigmoid()
    kept = weights > 0.5
    hit = (kept & ~wrong).sum()
    f1 = 2 * hit / (kept.sum() + (~wrong).sum())
    print(f"{len(y)} labels, {wrong.double().mean():.0%} of them spoiled; unseen digits right:")
    print(f"  {right(everything):.1%} with all labels, {right(few):.1%} with the {len(y_clean)} clean ones alone")
    print(
        f"  {right(W.detach()):.1%} after {options.steps} steps in all weights at once (F1 {f1:.2f} of what is clean)"
    )
    print(f"  {right(truth):.1%} if one knew which are spoiled")

    figure, (left, middle) = plt.subplots(1, 2, figsize=(9, 3.5))
    bins = torch.linspace(0, 1, 21).tolist()
    left.hist([weights[~wrong].tolist(), weights[wrong].tolist()], bins=bins, label=["right label", "spoiled label"])
    left.set(xlabel="learned weight", ylabel="training images")
    left.legend()
    middle.plot([100 * share for _, share in curve])
    for level, name in ((everything, "all labels"), (few, "clean set alone"), (truth, "if one knew")):
        middle.axhline(100 * right(level), linestyle=":", color="gray")
        middle.text(0, 100 * right(level), name, va="bottom", fontsize="small")
    middle.set(xlabel="outer step", ylabel="unseen digits right, %")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "hyper_cleaning.png", dpi=120)
    print(f"figure: {options.out}/hyper_cleaning.png")


if __name__ == "__main__":
    main()
