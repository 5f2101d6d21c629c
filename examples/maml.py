"""Meta-learning: a start from which a few steps of training suffice, by unrolled and by implicit gradients.

Two families of tasks. Sines of any amplitude and phase, fitted to ten points (MAML, Finn et al. 2017); and episodes of
scikit-learn's digits, to tell five classes apart after five images of each (iMAML, Rajeswaran et al. 2019), where the
classes of the test are digits that no training episode has shown. The inner problem is one call, whose unknown is the
displacement from the start,

    minimise over d:   loss(start + d, task) + strength / 2 ||d||^2,

and one argument of it says what is differentiated: every step, the last few, or the optimality condition. Prints a
table of what they reach, their time and their memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Adjoint = ol.Implicit | ol.Unroll
Params = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]  # inputs and targets of many tasks (tasks, examples, ...)


class Family(NamedTuple):
    """A family of tasks, and how a network is trained on one."""

    net: nn.Sequential
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    draw: Callable[[int, bool], tuple[Batch, Batch]]  # so many tasks, unseen or not, to train on and to be judged by
    solver: ol.GradientDescent
    strength: float  # of the pull towards the start
    tasks: int  # for an outer step
    ways: Mapping[str, Adjoint]

    def adapt(self, start: Params, tasks: Batch, adjoint: Adjoint) -> Params:
        """Parameters after training on each task, a batch of them."""

        def objective(moved: Params, start: Params, x: Tensor, y: Tensor) -> Tensor:
            pull = torch.stack([d.square().sum() for d in moved.values()]).sum()
            return self.loss(self.predict(added(start, moved), x), y) + 0.5 * self.strength * pull

        here = {name: value.new_zeros(len(tasks[0]), *value.shape) for name, value in start.items()}
        shared = (None, 0, 0)
        found = ol.minimise(objective, here, (start, *tasks), in_dims=shared, solver=self.solver, adjoint=adjoint)
        return added(start, found.x)

    def predict(self, params: Params, x: Tensor) -> Tensor:
        return functional_call(self.net, params, (x,))

    def judged(self, params: Params, tasks: Batch, by: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The mean over tasks of what `by` says of parameters ``(tasks, ...)``."""
        return torch.vmap(lambda params, x, y: by(self.predict(params, x), y))(params, *tasks).mean()


def added(start: Params, moved: Params) -> Params:
    return {name: value + moved[name] for name, value in start.items()}


def sines() -> Family:
    """Ten points of ``a sin(x + phase)`` on [-5, 5] to train on, ten more to be judged by."""

    def draw(count: int, unseen: bool) -> tuple[Batch, Batch]:
        amplitude, phase = 0.1 + 4.9 * torch.rand(count, 1, 1), torch.pi * torch.rand(count, 1, 1)
        x = 10 * torch.rand(2, count, 10, 1) - 5
        y = amplitude * torch.sin(x + phase)
        return (x[0], y[0]), (x[1], y[1])

    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    solver = ol.GradientDescent(ol.optim.sgd(0.03), steps=5)
    mse, ways = nn.functional.mse_loss, {"unrolled": ol.Unroll(), "last 2 steps": ol.Unroll(2)}
    return Family(net, mse, mse, draw, solver, 0.0, 16, ways)  # five steps are far from a minimum: no implicit gradient


def digits() -> Family:
    """Episodes of five classes: a digit, upright or on its side. 0 to 6 for training, 7 to 9 unseen."""
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    upright = images.float().reshape(-1, 8, 8) / 16
    pixels = torch.cat([upright, upright.rot90(1, (1, 2))]).flatten(1)
    classes = torch.cat([labels, labels + 10])
    members = [(classes == label).nonzero()[:, 0] for label in range(20)]
    known = [label for label in range(20) if label % 10 < 7]

    def episode(unseen: bool) -> tuple[Tensor, Tensor]:
        pool = torch.tensor([label for label in range(20) if (label not in known) == unseen])
        chosen = [members[label] for label in pool[torch.randperm(len(pool))[:5]].tolist()]
        x = torch.stack([pixels[of[torch.randperm(len(of))[:15]]] for of in chosen])
        return x, torch.arange(5)[:, None].expand(5, 15)

    def draw(count: int, unseen: bool) -> tuple[Batch, Batch]:
        x, y = (torch.stack(part) for part in zip(*(episode(unseen) for _ in range(count)), strict=True))
        halves = ((x[:, :, :5], y[:, :, :5]), (x[:, :, 5:], y[:, :, 5:]))
        first, second = ((part.flatten(1, 2), of.flatten(1)) for part, of in halves)
        return first, second

    def accuracy(scores: Tensor, y: Tensor) -> Tensor:
        return (scores.argmax(-1) == y).float().mean()

    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    solver = ol.GradientDescent(ol.optim.sgd(0.1, momentum=0.8), steps=16)
    # Sixteen steps may end where the Hessian is indefinite, for which conjugate gradients are not made.
    implicit = ol.Implicit(ol.linear_solve.GMRES(rtol=1e-2, batch_ndim=1))
    ways = {"unrolled": ol.Unroll(), "last 4 steps": ol.Unroll(4), "implicit": implicit}
    return Family(net, nn.functional.cross_entropy, accuracy, draw, solver, 0.3, 4, ways)


def bytes_saved(output: Tensor) -> int:
    """What the graph of `output` keeps for its derivative, each tensor once."""
    found, nodes, seen = {}, [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        held = [*getattr(node, "saved_tensors", ()), *(getattr(node, n) for n in dir(node) if n.startswith("_saved_"))]
        found |= {t.data_ptr(): t.numel() * t.element_size() for t in held if isinstance(t, Tensor)}
        nodes += [parent for parent, _ in node.next_functions]
    return sum(found.values())


def run(family: Family, adjoint: Adjoint, steps: int, name: str) -> dict:
    """Learn a start; return it, the outer losses, processor time of a step in ms, and MiB that its graph keeps."""
    torch.manual_seed(0)
    for layer in family.net:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    start = {name: value.detach().clone().requires_grad_() for name, value in family.net.named_parameters()}
    optimizer = torch.optim.Adam(start.values(), 5e-3)
    losses, times, kept = [], [], 0
    for _ in tqdm(range(steps), desc=name, leave=False, disable=None):
        seen, judge = family.draw(family.tasks, False)
        begin = time.process_time()
        loss = family.judged(family.adapt(start, seen, adjoint), judge, family.loss)
        kept = kept or bytes_saved(loss)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(start.values(), 1.0)
        optimizer.step()
        times.append(time.process_time() - begin)
        losses.append(loss.item())
    middle = sorted(times)[len(times) // 2]
    return {"start": start, "losses": losses, "ms": 1e3 * middle, "MiB": kept / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn to learn, by unrolled and by implicit gradients.")
    parser.add_argument("--steps", type=int, default=400, help="outer steps")
    parser.add_argument("--unseen", type=int, default=200, help="tasks to judge by")
    parser.add_argument("--out", type=Path, default=Path("outputs/maml"), help="folder for the figure")
    options = parser.parse_args()
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.5))
    print(
        "| tasks | gradient | before training | after it | processor ms a step | MiB kept |\n|---|---|--:|--:|--:|--:|"
    )
    for axis, (title, make) in zip(axes, {"sines": sines, "digits": digits}.items(), strict=False):
        family = make()
        torch.manual_seed(1)
        seen, judge = family.draw(options.unseen, True)
        for name, adjoint in family.ways.items():
            log = run(family, adjoint, options.steps, f"{title}, {name}")
            with torch.no_grad():
                after = family.adapt(log["start"], seen, ol.Unroll())
                before = {name: value.expand_as(after[name]) for name, value in log["start"].items()}
                scores = [family.judged(params, judge, family.score).item() for params in (before, after)]
            cells = [f"{score:.1%}" if title == "digits" else f"{score:.2f}" for score in scores]
            print(f"| {title} | {name} | {cells[0]} | {cells[1]} | {log['ms']:.0f} | {log['MiB']:.2f} |")
            width = max(1, options.steps // 50)
            axis.plot(torch.tensor(log["losses"]).unfold(0, width, width).mean(-1), label=name)
            if title == "sines":
                x = torch.linspace(-5, 5, 100)[:, None]
                one = {name: value[0].detach() for name, value in after.items()}
                axes[2].plot(x, family.predict(one, x), label=name)
        axis.set(title=title, xlabel=f"outer step / {max(1, options.steps // 50)}", ylabel="outer loss")
        axis.legend()
        if title == "sines":
            axes[2].plot(seen[0][0], seen[1][0], "ko", label="what it is trained on")
            axes[2].plot(judge[0][0], judge[1][0], "k+", label="unseen")
            axes[2].legend(fontsize="small")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.out / "maml.png", dpi=120)
    print(f"figure: {options.out}/maml.png")


if __name__ == "__main__":
    main()
