"""A deep equilibrium network on scikit-learn's digits: the exact gradient, the Jacobian-free one, and Neumann-5.

One network, one start, one order of the data; only the backward pass differs. The state of width 64 solves
``z = tanh(W z + U x + b)``, and a linear layer reads the digit off it. Training would drive W to where there is no
equilibrium for some digits, so W is scaled to a norm below one. Prints a table of accuracy and seconds an epoch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WAYS = {
    "exact": ol.Implicit(),
    "Neumann-5": ol.Implicit(ol.linear_solve.Neumann(5)),
    "Jacobian-free": ol.Implicit(ol.linear_solve.Identity()),
}


class Cell(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.inside, self.outside = nn.Linear(width, width, bias=False), nn.Linear(inputs, width)
        nn.init.orthogonal_(self.inside.weight)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        W = self.inside.weight
        bound = (W.abs().sum(0).amax() * W.abs().sum(1).amax()).sqrt()  # of the spectral norm
        return torch.tanh(z @ W.T * (0.95 / bound.clamp(min=0.95)) + self.outside(x))


class Network(nn.Module):
    def __init__(self, adjoint: ol.Implicit, width: int = 64):
        super().__init__()
        self.equilibrium = ol.FixedPointLayer(Cell(64, width), solver=ol.Picard(batch_ndim=1), adjoint=adjoint)
        self.out = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.equilibrium(x))  # which starts at zero, with the shape of x: the width is that of x


def run(adjoint: ol.Implicit, data: tuple[Tensor, ...], epochs: int, seed: int, name: str) -> dict[str, list[float]]:
    """Train, and return accuracy on unseen digits and seconds, both for each epoch."""
    images, labels, unseen, truth = data
    torch.manual_seed(seed)
    model = Network(adjoint)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    log: dict[str, list[float]] = {"right": [], "seconds": []}
    for _ in tqdm(range(epochs), desc=name, leave=False, disable=None):
        start = time.perf_counter()
        for index in torch.randperm(len(images)).split(100):
            loss = nn.functional.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        log["seconds"].append(time.perf_counter() - start)
        with torch.no_grad():
            log["right"].append((model(unseen).argmax(1) == truth).double().mean().item())
    with torch.no_grad():
        log["radius"] = model.equilibrium.spectral_radius(model.equilibrium(unseen), unseen).tolist()
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a deep equilibrium with three backward passes.")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1400, help="how many digits to train on")
    parser.add_argument("--out", type=Path, default=Path("outputs/equilibrium"), help="folder for the figure")
    options = parser.parse_args()
    pixels, targets = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(targets)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    seen, unseen = order[: options.images], order[1400:]
    data = (images[seen], labels[seen], images[unseen], labels[unseen])

    figure, axis = plt.subplots(figsize=(6, 4))
    print("| backward | unseen digits right | seconds an epoch | spectral radius |\n|---|--:|--:|--:|")
    for name, adjoint in WAYS.items():
        logs = [run(adjoint, data, options.epochs, seed, name) for seed in range(options.seeds)]
        curve = torch.tensor([log["right"] for log in logs])
        seconds = torch.tensor([log["seconds"] for log in logs]).median().item()
        radius = max(max(log["radius"]) for log in logs)
        final = curve[:, -1]
        spread = (final.max() - final.min()).item() / 2
        print(f"| {name} | {100 * final.mean():.1f}% ± {100 * spread:.1f} | {seconds:.2f} | {radius:.2f} |")
        axis.plot(range(1, options.epochs + 1), 100 * curve.mean(0), "o-", markersize=3, label=name)
    axis.set(xlabel="epoch", ylabel="unseen digits right, %")
    axis.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "equilibrium.png", dpi=120)
    print(f"figure: {options.out}/equilibrium.png")


if __name__ == "__main__":
    main()
