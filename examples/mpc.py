"""What a controller wants, learned from what it does: model predictive control whose cost is learned by imitation.

The task: an expert steers a linear system with bounded inputs by solving, at every step, for the cheapest plan over a
horizon; what it applies is its first input with some noise. The plan of the learner is the same program with weights of
the states that it does not know. Its gradient with respect to the weights passes through the program, bounds included.
A network without the program imitates worse, from the same data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cvxpy as cp
import matplotlib
import torch
from torch import Tensor, nn
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STATES, INPUTS, HORIZON, BOUND = 6, 2, 5, 0.5
SYSTEMS = 20  # simulated side by side


def planner(A: Tensor, B: Tensor) -> ol.CvxpyLayer:
    """A layer: state and weights of the states to the first input of the cheapest plan."""
    start, weights = cp.Parameter(STATES), cp.Parameter(STATES, nonneg=True)
    x, u = cp.Variable((HORIZON, STATES)), cp.Variable((HORIZON, INPUTS))
    first = cp.Variable(INPUTS)
    cost = cp.sum(cp.square(x) @ weights) + cp.sum_squares(u)
    constraints = [x[0] == start, x[1:] == x[:-1] @ A.numpy().T + u[:-1] @ B.numpy().T, cp.abs(u) <= BOUND]
    problem = cp.Problem(cp.Minimize(cost), [*constraints, first == u[0]])
    return ol.CvxpyLayer(problem, [start, weights], [first])


def simulate(policy: Callable[[Tensor], Tensor], A: Tensor, B: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """States ``(SYSTEMS * steps, 6)`` that are met, disturbed by noise, and the inputs applied there."""
    x, states, inputs = torch.randn(SYSTEMS, STATES), [], []
    for _ in range(steps):
        u = policy(x)
        states.append(x)
        inputs.append(u)
        x = x @ A.T + u @ B.T + torch.randn(SYSTEMS, STATES)
    return torch.cat(states), torch.cat(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn the cost of a model predictive controller by imitation.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=25, help="length of the simulation of each of 20 systems")
    parser.add_argument("--out", type=Path, default=Path("outputs/mpc"), help="folder for the figure")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    A, B = torch.randn(STATES, STATES), torch.randn(STATES, INPUTS)
    A = A / torch.linalg.eigvals(A).abs().max()
    true = torch.randn(STATES).abs()
    layer = planner(A, B)

    def expert(x: Tensor) -> Tensor:
        with torch.no_grad():
            return (layer(x, true)[0] + 0.3 * torch.randn(SYSTEMS, INPUTS)).clamp(-BOUND, BOUND)

    states, inputs = simulate(expert, A, B, options.steps)
    unseen, applied = simulate(expert, A, B, options.steps)

    raw = nn.Parameter(torch.full((STATES,), 0.5413))  # softplus of which is one
    network = nn.Sequential(nn.Linear(STATES, 32), nn.Tanh(), nn.Linear(32, INPUTS))
    models: dict[str, tuple[Callable[[Tensor], Tensor], list[nn.Parameter]]] = {
        "program": (lambda x: layer(x, nn.functional.softplus(raw))[0], [raw]),
        "network": (lambda x: network(x).clamp(-BOUND, BOUND), list(network.parameters())),
    }
    with torch.no_grad():
        print(f"weights known: mean squared error {(layer(unseen, true)[0] - applied).square().mean():.4f}, the noise")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    for name, (model, parameters) in models.items():
        optimizer, errors = torch.optim.Adam(parameters, lr=0.05), []
        for _ in tqdm(range(options.epochs), desc=name, leave=False, disable=None):
            for index in torch.randperm(len(states)).split(50):
                loss = (model(states[index]) - inputs[index]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                errors.append((model(unseen) - applied).square().mean().item())
        print(f"{name}: mean squared error {errors[-1]:.5f} on unseen states")
        left.plot(errors, label=name)
    learned = nn.functional.softplus(raw).detach()
    print(f"mean error of a weight: {(learned - true).abs().mean():.2f}, at the start {(1 - true).abs().mean():.2f}")
    left.set(xlabel="epoch", ylabel="mean squared error on unseen states")
    left.legend()
    right.bar(torch.arange(STATES) - 0.2, true, 0.4, label="the expert's")
    right.bar(torch.arange(STATES) + 0.2, learned, 0.4, label="learned")
    right.set(xlabel="state", ylabel="weight")
    right.legend()
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "mpc.png", dpi=120)
    print(f"figure: {options.out}/mpc.png")


if __name__ == "__main__":
    main()
