"""Learning rates by meta-gradient: one for all, one for each tensor, and one for every entry of every tensor.

Softmax regression on scikit-learn's digits, whose pixels are badly scaled on purpose: no single rate suits all of them.
Ten steps of training are differentiated with respect to the rates (Meta-SGD, Li et al. 2017), over many starts and
batches; what is learned is then tried on starts and images that it has not seen.
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

INNER_STEPS, START = 10, 0.1
Batch = tuple[Tensor, Tensor]


def rates(kind: str, net: nn.Module) -> dict[str, Tensor]:
    """The logarithms to learn, by name of the parameter."""
    first = torch.tensor(START).log()
    if kind == "one":
        return dict.fromkeys(dict(net.named_parameters()), first.clone().requires_grad_())
    shape = {"each tensor": lambda p: (), "each entry": lambda p: p.shape}[kind]
    return {name: first.expand(shape(p)).clone().requires_grad_() for name, p in net.named_parameters()}


def train(net: nn.Linear, logs: dict[str, Tensor], batches: list[Batch]) -> None:
    """A fresh start, and a step for each batch, all of them kept in the graph."""
    ol.stop_gradient(net)  # what the last training left
    with torch.no_grad():
        net.reset_parameters()
    groups = [{"module": net, "names": [name], "lr": log.exp()} for name, log in logs.items()]
    optimizer = ol.MetaSGD(groups)
    for x, y in batches:
        optimizer.step(nn.functional.cross_entropy(net(x), y))


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn the learning rates of a short training.")
    parser.add_argument("--steps", type=int, default=100, help="outer steps")
    parser.add_argument("--out", type=Path, default=Path("outputs/learned_rates"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    pixels, digits = (torch.tensor(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(digits))
    scale = 10 ** torch.empty(64).uniform_(-1, 0.5)
    x, y = (pixels.float() / 16 * scale)[order], digits[order]

    def draw(low: int, high: int, count: int) -> list[Batch]:
        picks = torch.randint(low, high, (count, 100))
        return [(x[pick], y[pick]) for pick in picks]

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    for kind in ("one", "each tensor", "each entry"):
        torch.manual_seed(1)
        net = nn.Linear(64, 10)
        logs = rates(kind, net)
        learned = list({id(log): log for log in logs.values()}.values())
        outer = torch.optim.Adam(learned, lr=0.05)
        curve = []
        for _ in tqdm(range(options.steps), desc=kind, leave=False, disable=None):
            train(net, logs, draw(0, 700, INNER_STEPS))
            judge, truth = draw(700, 1200, 1)[0]
            loss = nn.functional.cross_entropy(net(judge), truth)
            outer.zero_grad()
            loss.backward(inputs=learned)
            # A rate that is too large for one start has a gradient beyond all bounds.
            nn.utils.clip_grad_norm_(learned, 0.1)
            outer.step()
            curve.append(loss.item())
        found = []
        for _ in range(20):
            train(net, logs, draw(0, 700, INNER_STEPS))
            found.append((net(x[1200:]).argmax(1) == y[1200:]).float().mean().item())
        count = sum(log.numel() for log in learned)
        mean = sum(found) / len(found)
        print(f"{kind}: {mean:.1%} of unseen digits after {INNER_STEPS} steps, with {count} rates learned")
        left.plot(curve, label=kind)
    left.set(xlabel="outer step", ylabel=f"loss after {INNER_STEPS} steps", yscale="log")
    left.legend()
    right.loglog(scale, logs["weight"].detach().exp().mean(0), "o", markersize=3)
    right.set(xlabel="scale of a pixel", ylabel="learned rate, mean over its weights")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "learned_rates.png", dpi=120)
    print(f"figure: {options.out}/learned_rates.png")


if __name__ == "__main__":
    main()
