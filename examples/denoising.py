"""Signals freed of noise that is not white: total variation denoising whose weights are learned.

The task: a signal that is constant in pieces comes with correlated noise. The denoised signal is the solution of

    minimize  || W (x - y) ||^2  +  sum_i  w_i | y_{i+1} - y_i |

With W the identity and one w for all, the best that can be done is to choose w. Learned through the program, W whitens
the noise and the error falls by half.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cvxpy as cp
import matplotlib
import torch
from torch import Tensor, nn
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LENGTH, PIECES = 40, 4


def signals(count: int, root: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy and clean signals ``(count, 40)``."""
    heights, ends = torch.randn(count, PIECES), torch.randint(1, LENGTH, (count, PIECES - 1)).sort().values
    piece = (torch.arange(LENGTH) >= ends[..., None]).sum(1)
    clean = heights.gather(1, piece)
    return clean + torch.randn(count, LENGTH) @ root.T, clean


def denoiser() -> ol.CvxpyLayer:
    """A layer: noisy signal, matrix and weights to the denoised signal."""
    x, W = cp.Parameter(LENGTH), cp.Parameter((LENGTH, LENGTH))
    w, y, noise = cp.Parameter(LENGTH - 1, nonneg=True), cp.Variable(LENGTH), cp.Variable(LENGTH)
    cost = cp.sum_squares(W @ noise) + w @ cp.abs(cp.diff(y))
    return ol.CvxpyLayer(cp.Problem(cp.Minimize(cost), [noise == x - y]), [x, W, w], [y])


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn the weights of total variation denoising.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("outputs/denoising"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    root = 0.08 * torch.randn(LENGTH, LENGTH)  # of the covariance of the noise
    x, y = signals(options.signals, root)
    unseen, clean = signals(100, root)
    layer = denoiser()

    def error(W: Tensor, w: Tensor) -> float:
        with torch.no_grad():
            return nn.functional.mse_loss(layer(unseen, W, w)[0], clean).item()

    eye, grid = torch.eye(LENGTH), torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0])
    by_one = {float(value): error(eye, value.expand(LENGTH - 1)) for value in grid}
    best = min(by_one, key=lambda value: by_one[value])
    print(f"as it comes: mean squared error {nn.functional.mse_loss(unseen, clean):.4f}")
    print(f"one weight, {best:g}: mean squared error {by_one[best]:.4f}")

    W, log_w = nn.Parameter(eye.clone()), nn.Parameter(torch.full((LENGTH - 1,), best).log())
    optimizer, errors = torch.optim.Adam([W, log_w], lr=0.02), [by_one[best]]
    for _ in tqdm(range(options.epochs), leave=False, disable=None):
        for index in torch.randperm(len(x)).split(50):
            loss = nn.functional.mse_loss(layer(x[index], W, log_w.exp())[0], y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append(error(W, log_w.exp()))
    print(f"learned weights: mean squared error {errors[-1]:.5f} on unseen signals")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    left.plot(errors, label="learned weights")
    left.axhline(by_one[best], color="C1", label="one weight")
    left.set(xlabel="epoch", ylabel="mean squared error on unseen signals", ylim=(0, None))
    left.legend()
    with torch.no_grad():
        right.plot(unseen[0], color="0.8", label="noisy")
        right.plot(layer(unseen[0], eye, torch.full((LENGTH - 1,), best))[0], color="C1", label="one weight")
        right.plot(layer(unseen[0], W, log_w.exp())[0], color="C0", label="learned weights")
    right.plot(clean[0], "k--", label="clean")
    right.set(xlabel="time")
    right.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "denoising.png", dpi=120)
    print(f"figure: {options.out}/denoising.png")


if __name__ == "__main__":
    main()
