"""A network whose outputs obey linear constraints by construction: its last layer projects onto a polytope.

The task: how to split a budget among 6 items so that shares are between 0 and 0.4, sum to one, and the first three
items get at least as much as half of the others. A network without the layer learns the constraints only roughly; with
it, they hold to rounding, in training and on unseen inputs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ITEMS = 6


def polytope() -> dict[str, Tensor]:
    """``G y <= h, A y = b``."""
    eye = torch.eye(ITEMS)
    group = torch.tensor([[-1.0, -1.0, -1.0, 0.5, 0.5, 0.5]])
    G, h = torch.cat([-eye, eye, group]), torch.cat([torch.zeros(ITEMS), torch.full((ITEMS,), 0.4), torch.zeros(1)])
    return {"G": G, "h": h, "A": torch.ones(1, ITEMS), "b": torch.ones(1)}


class Allocator(nn.Module):
    """Features ``(B, 4)`` to shares ``(B, 6)``."""

    def __init__(self, project: bool):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, ITEMS))
        # The projection of v is the program min 1/2 ||y||^2 - v'y; what is missing of it comes with the call.
        sets = polytope()
        data = sets["G"], sets["h"], sets["A"], sets["b"]
        self.program = ol.QPLayer(torch.eye(ITEMS), None, *data) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return y if self.program is None else self.program(p=-y)


def violation(y: Tensor) -> float:
    """The worst violation of any constraint by any sample."""
    sets = {name: value.to(y) for name, value in polytope().items()}
    over = (y @ sets["G"].T - sets["h"]).clamp(min=0).max()
    return torch.maximum(over, (y @ sets["A"].T - sets["b"]).abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Project a network's output onto a polytope.")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("outputs/polytope"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    x = torch.randn(600, 4)
    wanted = torch.softmax(2 * x @ torch.randn(4, ITEMS), -1)
    sets = polytope()
    target = ol.projection.polyhedron(wanted, sets["G"], sets["h"], sets["A"], sets["b"])

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    for name, project in {"free": False, "projected": True}.items():
        torch.manual_seed(1)
        model, losses = Allocator(project), []
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in tqdm(range(options.epochs), desc=name, leave=False, disable=None):
            for index in torch.randperm(500).split(100):
                loss = nn.functional.mse_loss(model(x[index]), target[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            y = model(x[500:])
        error = nn.functional.mse_loss(y, target[500:]).item()
        print(f"{name}: mean squared error {error:.1e} on unseen inputs, worst violation {violation(y):.0e}")
        left.semilogy(losses, label=name)
        right.plot(y.sum(-1).sort().values, label=f"{name}: sum of the shares")
    left.set(xlabel="epoch", ylabel="mean squared error")
    right.set(xlabel="unseen input, sorted")
    left.legend()
    right.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "polytope.png", dpi=120)
    print(f"figure: {options.out}/polytope.png")


if __name__ == "__main__":
    main()
