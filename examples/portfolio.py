"""Portfolios of limited risk, from returns that a network predicts: trained to predict well, or to invest well.

The task: split money among 6 assets, given 4 signals on a day. A linear model predicts the returns of the assets, and a
cone program picks the weights of highest predicted return whose standard deviation is at most a limit. The model is too
simple for the market. Fitted to the returns, it spends its precision where it does not matter; trained through the
program, on what the portfolio earns, it earns more at the same risk.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cvxpy as cp
import matplotlib
import torch
from torch import Tensor, nn
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ASSETS, SIGNALS = 6, 4


class Market:
    """Days with signals ``(B, 4)``, the returns ``(B, 6)`` that they lead to expect, and the returns, in percent."""

    def __init__(self):
        self.linear, self.bend = torch.randn(SIGNALS, ASSETS), torch.randn(SIGNALS, ASSETS)
        self.root = 0.3 * torch.eye(ASSETS) + 0.15 * torch.randn(ASSETS, ASSETS)  # of the covariance of the returns

    def days(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        signals = torch.randn(count, SIGNALS)
        expected = torch.tanh(signals @ self.linear) + torch.relu(signals @ self.bend - 2)
        return signals, expected, expected + torch.randn(count, ASSETS) @ self.root.T


def allocation(root: Tensor) -> ol.CvxpyLayer:
    """A layer: predicted returns and the limit of the risk to the weights, and the price of the risk."""
    weights, returns, limit = cp.Variable(ASSETS), cp.Parameter(ASSETS), cp.Parameter(nonneg=True)
    risk = cp.norm(root.numpy().T @ weights) <= limit
    constraints: list[Any] = [risk, cp.sum(weights) == 1, weights >= 0]
    problem = cp.Problem(cp.Maximize(returns @ weights), constraints)
    return ol.CvxpyLayer(problem, [returns, limit], [weights, risk.dual_variables[0]])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model of returns through the portfolio that is built on it.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--days", type=int, default=500)
    parser.add_argument(
        "--limit", type=float, default=0.25, help="largest standard deviation of the return, in percent"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/portfolio"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    market = Market()
    layer = allocation(market.root)
    limit = torch.tensor(options.limit)
    signals, _, returns = market.days(options.days)
    unseen, expected, _ = market.days(options.days // 2)

    def earned(model: nn.Module) -> float:
        """The expected return of the portfolios, on unseen days."""
        with torch.no_grad():
            return (layer(model(unseen), limit)[0] * expected).sum(-1).mean().item()

    model, losses = nn.Linear(SIGNALS, ASSETS), []
    with torch.no_grad():  # least squares
        ones = torch.cat([signals, torch.ones(len(signals), 1)], -1)
        fitted = torch.linalg.lstsq(ones, returns).solution.T
        model.weight.copy_(fitted[:, :-1])
        model.bias.copy_(fitted[:, -1])
    results = {"fitted to the returns": earned(model)}

    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in tqdm(range(options.epochs), leave=False, disable=None):
        for index in torch.randperm(options.days).split(100):
            weights, _ = layer(model(signals[index]), limit)
            loss = -(weights * returns[index]).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(earned(model))
    results["trained on what is earned"] = losses[-1]
    with torch.no_grad():
        results["expected returns known"] = (layer(expected, limit)[0] * expected).sum(-1).mean().item()
    for name, value in results.items():
        print(f"{name}: {value:.4f}% a day")

    # The price of the risk is the derivative of the optimal value in its limit.
    limits = torch.linspace(1.02, 2.0, 40) * options.limit
    limits.requires_grad_()
    weights, price = layer(expected[0], limits)
    value = weights @ expected[0]
    (slope,) = torch.autograd.grad(value.sum(), limits)
    print(f"price of risk: its multiplier and the derivative differ by {(slope - price.flatten()).abs().max():.0e}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    left.plot(losses, label="trained on what is earned")
    left.axhline(results["fitted to the returns"], color="C1", label="fitted to the returns")
    left.set(xlabel="epoch", ylabel="expected return on unseen days, %")
    left.legend()
    right.plot(limits.detach(), value.detach(), label="optimal return")
    right.plot(limits.detach(), price.detach().flatten(), label="price of risk")
    right.set(xlabel="limit of the standard deviation, %")
    right.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "portfolio.png", dpi=120)
    print(f"figure: {options.out}/portfolio.png")


if __name__ == "__main__":
    main()
