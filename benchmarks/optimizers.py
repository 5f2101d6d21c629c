"""Optimizers beside their peers: the ordinary Adam step, five unrolled steps of Adam with their derivative, memory.

All in one process, float32, warm, the contestants in turns. A peer that is not installed is skipped. The inner gradient
is elementwise, so that the optimizer is what is timed. `--soak 10000` takes so many outer steps of MetaAdam instead,
three inner ones each, and prints the resident memory along the way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from runner import Case, environment, limit_threads, measure, peak_memory
from torch import Tensor, nn

import optlayers as ol
from optlayers import optim

SIZES = {"1e4": [(10_000,)], "1e6": [(1_000_000,)], "8e6": [(8_000_000,)], "50 x 32 x 32": [(32, 32)] * 50}
STEPS = 5
OURS = "optlayers"


def main() -> None:
    arguments = _arguments()
    limit_threads(arguments.threads)
    machine = environment(["torch", "optlayers", "torchopt"])
    print(json.dumps(machine))
    if arguments.soak:
        soak(arguments.soak)
        return
    results: dict[str, Any] = {"step": {}, "unrolled": {}, "long": long_unrolls(arguments.size or 100_000)}
    _table("Derivative of so many steps of training", "MiB at the peak", results["long"])
    for name in arguments.sizes:
        results["step"][name] = step_times(SIZES[name], arguments.repeats)
        _table(f"One ordinary step of Adam, n = {name}", "ms", results["step"][name])
    for name in arguments.sizes:
        results["unrolled"][name] = unrolled_times(SIZES[name], arguments.repeats)
        _table(f"{STEPS} unrolled steps of Adam, n = {name}", "", results["unrolled"][name])
    if arguments.json:
        arguments.json.write_text(json.dumps({**machine, "results": results}, indent=2) + "\n")


# -- ordinary steps ---------------------------------------------------------------------------------------------------


def step_times(shapes: Sequence[tuple[int, ...]], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step with the gradients at hand."""
    makers: dict[str, Callable[[list[nn.Parameter]], Any]] = {
        OURS: lambda params: optim.Adam(params, 1e-3),
        "optlayers foreach": lambda params: optim.Adam(params, 1e-3, eps_root=1e-16),  # which the kernel does not take
        "torch fused": lambda params: torch.optim.Adam(params, 1e-3, fused=True),
        "torch foreach": lambda params: torch.optim.Adam(params, 1e-3, foreach=True),
    }
    torchopt = _peer("torchopt")
    if torchopt:
        makers["torchopt"] = lambda params: torchopt.Adam(params, 1e-3)
    cases = {}
    for name, make in makers.items():
        params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        for parameter in params:
            parameter.grad = torch.randn_like(parameter)
        cases[name] = Case(make(params).step, lambda _: None)
    return {name: {"ms": times.total} for name, times in measure(cases, repeats).items()}


# -- unrolled steps ---------------------------------------------------------------------------------------------------


def unrolled_times(shapes: Sequence[tuple[int, ...]], repeats: int) -> dict[str, dict[str, float | None]]:
    """Milliseconds and peak memory of the unroll and its derivative with respect to the start."""
    start = [torch.randn(shape, requires_grad=True) for shape in shapes]
    slopes = [torch.randn(shape) for shape in shapes]
    unrolls = {OURS: _by_function(optim.adam(1e-3)), "plain torch": _by_hand}
    torchopt = _peer("torchopt")
    if torchopt:
        unrolls["torchopt"] = _by_torchopt(torchopt)

    def case(unroll: Callable[[list[Tensor], list[Tensor]], list[Tensor]]) -> Case:
        def backward(params: list[Tensor]) -> Any:
            return torch.autograd.grad(torch.stack([p.square().sum() for p in params]).sum(), start)

        return Case(lambda: unroll(start, slopes), backward)

    cases = {name: case(unroll) for name, unroll in unrolls.items()}
    _check_equal({name: case.backward(case.forward()) for name, case in cases.items()})
    times = measure(cases, repeats)
    return {
        name: {"ms": t.total, "forward": t.forward, "backward": t.backward, "MiB": peak_memory(cases[name])}
        for name, t in times.items()
    }


def _by_function(transformation: optim.GradientTransformation) -> Callable[..., list[Tensor]]:
    def unroll(params: list[Tensor], slopes: list[Tensor]) -> list[Tensor]:
        state = transformation.init(params)
        for _ in range(STEPS):
            grads = [p * a for p, a in zip(params, slopes, strict=True)]
            updates, state = transformation.update(grads, state, params)
            params = optim.apply_updates(params, updates)
        return params

    return unroll


def _by_hand(params: list[Tensor], slopes: list[Tensor], lr=1e-3, b1=0.9, b2=0.999, eps=1e-8) -> list[Tensor]:
    """What one writes who knows torch and needs the derivative."""
    mu, nu = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    for n in range(1, STEPS + 1):
        grads = [p * a for p, a in zip(params, slopes, strict=True)]
        mu = [b1 * m + (1 - b1) * g for m, g in zip(mu, grads, strict=True)]
        nu = [b2 * v + (1 - b2) * g * g for v, g in zip(nu, grads, strict=True)]
        params = [
            p - lr * (m / (1 - b1**n)) / ((v / (1 - b2**n)).sqrt() + eps)
            for p, m, v in zip(params, mu, nu, strict=True)
        ]
    return params


def _by_torchopt(torchopt: Any) -> Callable[..., list[Tensor]]:
    transformation = torchopt.adam(1e-3)

    def unroll(params: list[Tensor], slopes: list[Tensor]) -> list[Tensor]:
        state = transformation.init(params)
        for _ in range(STEPS):
            grads = [p * a for p, a in zip(params, slopes, strict=True)]
            updates, state = transformation.update(grads, state, params=params, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return params

    return unroll


def _check_equal(gradients: Mapping[str, Sequence[Tensor]]) -> None:
    expected = gradients[OURS]
    for name, grads in gradients.items():
        for ours, theirs in zip(expected, grads, strict=True):
            if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
                print(f"{name}: meta-gradient differs by {(ours - theirs).abs().max().item():.1e}")


# -- long unrolls -----------------------------------------------------------------------------------------------------


def long_unrolls(size: int) -> dict[str, dict[str, float | None]]:
    """Peak memory of the derivative of 16, 64 and 256 steps."""

    def loss(p: Tensor, a: Tensor) -> Tensor:
        return (torch.sin(p * a) + 0.1 * p**2).sum()

    def adam_step(state: Any, a: Tensor) -> Any:
        updates, inner = optim.adam(1e-2).update(torch.func.grad(loss)(state[0], a), state[1], state[0])
        return optim.apply_updates(state[0], updates), inner

    def loop(p: Tensor, a: Tensor, steps: int) -> Tensor:
        state = (p, optim.adam().init(p))
        for _ in range(steps):
            state = adam_step(state, a)
        return state[0]

    runs = {
        "loop of Adam": loop,
        "unroll of Adam": lambda p, a, steps: optim.unroll(adam_step, (p, optim.adam().init(p)), steps, (a,))[0],
        "reversible_sgd": lambda p, a, steps: optim.reversible_sgd(loss, p, steps, (a,), lr=1e-2),
    }

    def peak(run: Callable[[Tensor, Tensor, int], Tensor], steps: int) -> float | None:
        p, a = torch.randn(size, requires_grad=True), torch.randn(size)
        return peak_memory(Case(lambda: run(p, a, steps).sum(), lambda total: torch.autograd.grad(total, p)))

    for run in runs.values():
        peak(run, 2)  # what the first call loads is not counted
    return {name: {str(steps): peak(run, steps) for steps in (4, 16, 64, 256)} for name, run in runs.items()}


def soak(steps: int) -> None:
    """Resident memory while MetaAdam trains, cut by stop_gradient."""
    net, target = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)), torch.randn(64, 64)
    x = torch.randn(64, 64)
    meta = ol.MetaAdam(net, 1e-3)
    for outer in range(steps + 1):
        for _ in range(3):
            meta.step((net(x) - target).square().mean())
        loss = (net(x) - target).square().mean()
        ol.stop_gradient(net)
        ol.stop_gradient(meta)
        if outer % max(1, steps // 10) == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024
            print(f"step {outer:6d}  loss {loss.item():.4f}  resident {resident:.1f} MiB", flush=True)


def _peer(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


def _table(title: str, unit: str, rows: Mapping[str, Mapping[str, float | None]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n{title}{f', {unit}' if unit else ''}\n")
    print("| | " + " | ".join(columns) + " | to ours |\n|---|" + "--:|" * (len(columns) + 1))
    first = next(iter(rows.values()))[columns[0]]
    for name, row in rows.items():
        cells = ["-" if row[column] is None else f"{row[column]:.3f}" for column in columns]
        value = row[columns[0]]
        ratio = f"{value / first:.2f}" if value and first else "-"
        print(f"| {name} | " + " | ".join([*cells, ratio]) + " |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--size", type=int, help="entries in the long unrolls")
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of each contestant (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each contestant (%(default)s)")
    parser.add_argument("--soak", type=int, metavar="STEPS", help="outer steps of MetaAdam")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
