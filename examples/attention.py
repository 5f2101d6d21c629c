"""Softmax and sparsemax as optimization problems, from the KKT conditions to an attention layer that reads digits.

1. Softmax maximizes ``x'p + H(p)`` over ``1'p = 1``. Its KKT residual has the unknowns p and the multiplier u:

       x - log p - 1 + u 1 = 0,   1'p - 1 = 0.

   A Python loop solves it, and `custom_root` differentiates it. Nothing here knows the closed form.
2. Sparsemax is the nearest point of the simplex. The same, with the residual of a projected-gradient step.
3. Both go into attention over the 8 rows of a digit; a network learns to read scikit-learn's digits with each of
   the library's layers, and what it attends to is drawn. Sparsemax gives most rows no weight at all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def kkt(unknowns: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The KKT residual of softmax for rows ``x (B, n)``: stationarity ``(B, n)``, feasibility ``(B, 1)``."""
    p, u = unknowns
    return x - p.log() - 1 + u, p.sum(-1, keepdim=True) - 1


@ol.custom_root(kkt)
def softmax(init: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's method on u alone: p = exp(x - 1 + u) solves the first equation."""
    _, u = init
    for _ in range(50):
        total = torch.exp(x - 1 + u).sum(-1, keepdim=True)
        u = u - total.log()
    return torch.exp(x - 1 + u), u


def step(p: Tensor, x: Tensor) -> Tensor:
    """A projected-gradient step of sparsemax, from any p: it stays where p is the nearest point to x."""
    return ol.projection.simplex(p - 0.5 * (p - x))


@ol.custom_fixed_point(step)
def sparsemax(init: Tensor, x: Tensor) -> Tensor:
    p = init
    for _ in range(100):
        p = step(p, x)
    return p


class Reader(nn.Module):
    """Digits ``(B, 8, 8)`` to scores: a learned query attends over the rows, several times."""

    def __init__(self, activation: nn.Module, heads: int = 4, width: int = 16):
        super().__init__()
        self.activation = activation
        self.rows, self.place = nn.Linear(8, width), nn.Parameter(0.1 * torch.randn(8, width))
        self.query, self.out = nn.Parameter(torch.randn(heads, width)), nn.Linear(heads * width, 10)

    def attention(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``(B, heads, 8)`` of the rows, and the rows' values."""
        values = torch.tanh(self.rows(images) + self.place)
        return self.activation(torch.einsum("hw,brw->bhr", self.query, values)), values

    def forward(self, images: Tensor) -> Tensor:
        weights, values = self.attention(images)
        return self.out((weights @ values).flatten(1))


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, name: str) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in tqdm(range(epochs), desc=name, leave=False, disable=None):
        for index in torch.randperm(len(images)).split(128):
            loss = nn.functional.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description="Softmax and sparsemax as optimization problems, and attention.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("outputs/attention"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)

    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    start = torch.full_like(x, 0.2), torch.zeros(3, 1, dtype=torch.float64)
    pairs = {
        "softmax": (softmax(start, x)[0], ol.Softmax()(x)),
        "sparsemax": (sparsemax(start[0], x), ol.Sparsemax()(x)),
    }
    for name, (solved, closed) in pairs.items():
        gradients = [torch.autograd.grad((p**2).sum(), x)[0] for p in (solved, closed)]
        value, gradient = (solved - closed).abs().max().item(), (gradients[0] - gradients[1]).abs().max().item()
        print(f"{name} from its optimality condition: differs by {value:.0e} in value, {gradient:.0e} in gradient")
        assert max(value, gradient) < 1e-8

    pixels, targets = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels.reshape(-1, 8, 8) / 16, dtype=torch.float32), torch.tensor(targets)
    order = torch.randperm(len(images))
    seen, unseen = order[:1400], order[1400:]
    figure, axes = plt.subplots(2, 4, figsize=(10, 5))
    for row, (name, activation) in zip(
        axes, {"softmax": ol.Softmax(), "sparsemax": ol.Sparsemax()}.items(), strict=True
    ):
        torch.manual_seed(1)
        model = Reader(activation)
        train(model, images[seen], labels[seen], options.epochs, name)
        with torch.no_grad():
            right = (model(images[unseen]).argmax(1) == labels[unseen]).double().mean().item()
            weights, _ = model.attention(images[unseen])
        print(
            f"{name} attention: {100 * right:.1f}% of unseen digits, {(weights == 0).double().mean():.0%} weights zero"
        )
        row[0].imshow(images[unseen[0]], cmap="gray_r")
        for head, axis in enumerate(row[1:]):
            axis.barh(range(8), weights[0, head], color="tab:blue")
            axis.set(ylim=(7.5, -0.5), xlim=(0, 1), title=f"{name}, head {head + 1}")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "attention.png", dpi=120)
    print(f"figure: {options.out}/attention.png")


if __name__ == "__main__":
    main()
