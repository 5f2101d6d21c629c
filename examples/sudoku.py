"""Learn the rules of 4x4 Sudoku from examples alone: a network whose only layer is a quadratic program.

The experiment of OptNet (Amos and Kolter, 2017). A board is a 0/1 vector of 64 entries, cell by digit. The layer solves

    min 0.05 ||x||^2 - puzzle'x   s.t.   A x = A exp(z),  x >= 0

where ``A`` (40 x 64) and ``z`` are learned, starting from noise. Nothing tells it what a row, a column or a block is.
``exp(z)`` is a positive point on the constraints, so that the program is always feasible. With ``--closest`` the
constraints are ``A x = 1`` instead, which contradict ``x >= 0`` at times: then the layer solves the closest program
that is feasible, and how far that is joins the loss.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import optlayers as ol

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CELLS, DIGITS = 16, 4


class Sudoku(nn.Module):
    """Boards ``(B, 64)`` with blanks to boards without, by a program with learned equality constraints."""

    def __init__(self, constraints: int = 40, closest: bool = False):
        super().__init__()
        n = CELLS * DIGITS
        self.A = nn.Parameter(torch.rand(constraints, n))
        self.z = None if closest else nn.Parameter(torch.zeros(n))
        self.program = ol.QPLayer(Q=0.1 * torch.eye(n), lb=torch.zeros(n), closest=closest)

    def forward(self, puzzle: Tensor) -> Tensor:
        return self.solve(puzzle)[0]

    def solve(self, puzzle: Tensor) -> tuple[Tensor, Tensor]:
        """The boards, and the mean square of what had to be added to ``b``."""
        b = self.A.new_ones(len(self.A)) if self.z is None else self.A @ self.z.exp()
        found = self.program.solve(p=-puzzle, A=self.A, b=b)
        shift = found.shift_b if isinstance(found, ol.ClosestQPSolution) else torch.zeros_like(b)
        return found.x, shift.square().sum(-1).mean()


def all_grids() -> np.ndarray:
    """The 288 valid grids, ``(288, 16)``, digits 0 to 3."""
    rows = list(itertools.permutations(range(DIGITS)))
    grids = []
    for first, second in itertools.product(rows, rows):
        if set(first[:2] + second[:2]) != set(range(4)):  # each block holds every digit
            continue
        for third, fourth in itertools.product(rows, rows):
            columns = zip(first, second, third, fourth, strict=True)
            if all(len(set(column)) == 4 for column in columns) and set(third[:2] + fourth[:2]) == set(range(4)):
                grids.append(first + second + third + fourth)
    return np.array(grids, dtype=np.int8)


def generate(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` puzzles with exactly one solution, 0 for blank and 1 to 4 else, and their solutions: ``(count, 16)``."""
    rng = np.random.default_rng(seed)
    grids = all_grids()
    solutions = grids[rng.integers(len(grids), size=count)]
    puzzles = solutions + 1
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        for cell in rng.permutation(CELLS):  # blank what can be blanked while no other grid fits the clues
            kept = puzzle > 0
            kept[cell] = False
            if (grids[:, kept] == solution[kept]).all(1).sum() == 1:
                puzzle[cell] = 0
    return puzzles, solutions + 1


def one_hot(boards: np.ndarray) -> Tensor:
    """Digits ``(B, 16)`` with 0 for blank to ``(B, 64)``; a blank cell is all zeros."""
    digits = torch.from_numpy(boards.reshape(-1, CELLS).astype(np.int64))
    return nn.functional.one_hot(digits, DIGITS + 1)[..., 1:].flatten(1).double()


def wrong_boards(model: nn.Module, puzzles: Tensor, solutions: Tensor) -> int:
    """How many boards have at least one wrong cell."""

    def digits(boards: Tensor) -> Tensor:
        return boards.unflatten(1, (CELLS, DIGITS)).argmax(-1)

    with torch.no_grad():
        return int((digits(model(puzzles)) != digits(solutions)).any(1).sum())


def show_board(puzzle: Tensor, solved: Tensor) -> str:
    """A puzzle and what the layer makes of it, side by side."""
    clues = puzzle.unflatten(0, (CELLS, DIGITS))
    digits = solved.unflatten(0, (CELLS, DIGITS)).argmax(-1).add(1).tolist()
    given = [str(int(row.argmax()) + 1) if row.any() else "." for row in clues]
    lines = []
    for start in range(0, CELLS, 4):
        left, right = " ".join(given[start : start + 4]), " ".join(map(str, digits[start : start + 4]))
        lines.append(f"    {left}    {'->' if start == 4 else '  '}    {right}")
    return "\n".join(lines)


def save_figure(path: Path, model: Sudoku, losses: list[float], wrong: list[int], tested: int) -> None:
    """The training curve beside the learned constraints, and beside what they span: the rules."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4))
    left.semilogy(losses, color="tab:blue", linewidth=0.8)
    left.set(xlabel="batch", ylabel="mean squared error")
    per_epoch = len(losses) // len(wrong)
    twin = left.twinx()
    twin.plot([per_epoch * (epoch + 1) for epoch in range(len(wrong))], wrong, "o-", color="tab:red", markersize=4)
    twin.set_ylabel(f"boards wrong of {tested}", color="tab:red")
    twin.set_ylim(bottom=0)
    A = model.A.detach().cpu()
    middle.imshow(A, cmap="RdBu", aspect="auto")
    middle.set(xlabel="cell and digit", ylabel="learned constraint", title="A")
    rules = torch.linalg.pinv(A) @ A
    right.imshow(rules.fill_diagonal_(0), cmap="RdBu", aspect="auto")
    right.set(xlabel="cell and digit", ylabel="cell and digit", title="projector onto the rows of A, off the diagonal")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train an optimization layer to solve 4x4 Sudoku.")
    parser.add_argument(
        "--data", type=Path, help="npz file with puzzle and solution, each (N, 4, 4); default: generated"
    )
    parser.add_argument("--closest", action="store_true", help="learn A x = 1, from a start that is not feasible")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=150)
    parser.add_argument("--lr", type=float, default=5e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/sudoku"), help="folder for the figure and the weights"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the weights in --out")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    if options.data:
        archive = np.load(options.data)
        puzzles, solutions = archive["puzzle"], archive["solution"]
    else:
        puzzles, solutions = generate(10_000, options.seed)
    held_out = len(puzzles) // 10
    puzzles, solutions = (one_hot(boards).to(options.device) for boards in (puzzles, solutions))
    train = puzzles[:-held_out], solutions[:-held_out]
    test = puzzles[-held_out:], solutions[-held_out:]

    model = Sudoku(closest=options.closest).double().to(options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, amsgrad=True)
    batches = -(-len(train[0]) // options.batch)
    losses: list[float] = []
    wrong: list[int] = []
    checkpoint = options.out / "sudoku.pt"
    if options.resume:
        state = torch.load(checkpoint, map_location=options.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses, wrong = state["losses"], state["wrong"]
    done = len(wrong)
    total = (done + options.epochs) * batches

    started = time.perf_counter()
    for epoch in range(done, done + options.epochs):
        order = torch.randperm(len(train[0]))
        bar = tqdm(
            order.split(options.batch), desc=f"epoch {epoch + 1}/{done + options.epochs}", leave=False, disable=None
        )
        for step, index in enumerate(bar):
            # At a constant rate the last few boards come and go.
            optimizer.param_groups[0]["lr"] = options.lr * (1 - (epoch * batches + step) / total) ** 2
            boards, shift = model.solve(train[0][index])
            mse = nn.functional.mse_loss(boards, train[1][index])
            optimizer.zero_grad()
            (mse + shift).backward()
            optimizer.step()
            losses.append(mse.item())
            bar.set_postfix(mse=f"{losses[-1]:.1e}")
        wrong.append(wrong_boards(model, *test))
        tqdm.write(f"epoch {epoch + 1}: {wrong[-1]} of {held_out} unseen boards wrong, mse {losses[-1]:.1e}")
    seconds = time.perf_counter() - started

    options.out.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses, "wrong": wrong}
    torch.save(state, checkpoint)
    save_figure(options.out / "sudoku.png", model, losses, wrong, held_out)
    with torch.no_grad():
        solved = model(test[0][:1])[0]
    print(f"\nan unseen board, solved:\n\n{show_board(test[0][0], solved)}\n")
    print(f"boards wrong: {1000 * wrong[-1] / held_out:g} per 1,000 unseen (published: OptNet 162, QPLayer 33)")
    print(f"time: {seconds:.1f} s for {options.epochs} epochs, {seconds / (options.epochs * batches):.4f} s a batch")
    print(f"figure and weights: {options.out}/sudoku.png, {options.out}/sudoku.pt")


if __name__ == "__main__":
    main()
