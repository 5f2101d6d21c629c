"""Runs the examples with settings that are quick, and looks for the figure that each saves."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
MODELLED = {"portfolio", "mpc", "denoising", "data_poisoning"}  # in cvxpy
QUICK = {  # what to pass, and a line that it prints
    "attention": (["--epochs", "1"], "sparsemax attention: "),
    "own_solvers": (["--steps", "2"], "C library: gradient of Kepler's equation differs by "),
    "equilibrium": (["--epochs", "1", "--seeds", "1", "--images", "200"], "| Jacobian-free | "),
    "hyper_cleaning": (["--steps", "1", "--images", "100"], "if one knew which are spoiled"),
    "learned_rates": (["--steps", "2"], "with 650 rates learned"),
    "maml": (["--steps", "1", "--unseen", "3"], "| digits | implicit | "),
    "regularization": (["--steps", "2", "--samples", "60"], "SVM, gradient: error "),
    "polytope": (["--epochs", "2"], "projected: mean squared error "),
    "portfolio": (["--epochs", "1", "--days", "40"], "price of risk: its multiplier and the derivative differ by "),
    "mpc": (["--epochs", "1", "--steps", "2"], "program: mean squared error "),
    "denoising": (["--epochs", "1", "--signals", "20"], "learned weights: mean squared error "),
    "data_poisoning": (["--steps", "2"], "after the attack: "),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")
@pytest.mark.parametrize("name", QUICK)
def test_example_runs(name, tmp_path, monkeypatch, capsys):
    for package in ("matplotlib", "sklearn", "tqdm", *(("cvxpy", "clarabel") if name in MODELLED else ())):
        pytest.importorskip(package)
    arguments, line = QUICK[name]
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--out", str(tmp_path)])
    dtype = torch.get_default_dtype()
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        torch.set_default_dtype(dtype)
    assert line in capsys.readouterr().out
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
