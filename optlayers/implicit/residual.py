"""Root problems stated by a residual function on pytrees, differentiated with any linear solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._base import tree
from ..linear_solve import LinearSolver, Operator
from .closure import captured, convert
from .linearize import Tape, can_tape, linearize
from .rule import Product, Rule, attach

Solve = Callable[..., Any]  # solve(matvec, b) -> x on pytrees: a LinearSolver or any function of the user's


class ResidualRule(Rule):
    """``residual(x, args)`` on flat lists; ``rebuild_x`` restores the tree that `solve` works on."""

    def __init__(self, residual, rebuild_x, solve: Solve, differentiable: Sequence[bool]):
        self._residual = residual
        self._rebuild_x = rebuild_x
        self._solve = solve
        self.differentiable = differentiable

    def residual(self, x, args):
        return self._residual(x, args)

    def solve_linear(self, x, args, rhs, transpose):
        def fn(*at: Tensor) -> list[Tensor]:
            return self._residual(list(at), args)

        push, pull = linearize(fn, x, transpose)
        return self._solve_with(push, pull, rhs, transpose)

    def vjp(self, x, args, cotangent, needed):
        """One evaluation of the residual gives the linear system and its derivative in the arguments."""
        where = [index for index, need in enumerate(needed) if need]
        if not where or not can_tape():
            return None

        def fn(*values: Tensor) -> list[Tensor]:
            full = [value.detach() for value in args]
            for index, value in zip(where, values[len(x) :], strict=True):
                full[index] = value
            return self._residual(list(values[: len(x)]), full)

        tape = Tape(fn, x, [args[index] for index in where])
        v = [torch.zeros_like(a) if b is None else b for a, b in zip(x, cotangent, strict=True)]
        u = self._solve_with(*tape.products(transpose=True), v, transpose=True)
        grads: list[Tensor | None] = [None] * len(args)
        for index, grad in zip(where, tape.pull_others(u), strict=True):
            grads[index] = -grad
        return grads

    def _solve_with(self, push: Product, pull: Product, rhs: Sequence[Tensor], transpose: bool) -> list[Tensor]:
        b = self._rebuild_x(rhs)

        def on_trees(product: Product) -> Callable[[Any], Any]:
            if isinstance(b, Tensor):  # what most solutions are: no tree to take apart
                return lambda u: product([u])[0]
            return lambda u: self._rebuild_x(product(_tensors(u)))

        operator = Operator(on_trees(push), on_trees(pull))
        operator = operator.T if transpose else operator
        if isinstance(self._solve, LinearSolver):
            solve = self._solve.T if transpose else self._solve  # its preconditioner is one for A
            return _tensors(solve(operator.matvec, b, rmatvec=operator.rmatvec))
        return _tensors(self._solve(operator.matvec, b))


@dataclass(frozen=True)
class RootProblem:
    """A root taken apart for the rule: ``tensors`` are what the rule calls its arguments."""

    rule: ResidualRule
    x: list[Tensor]
    captured: list[Tensor]
    args: list[Tensor]
    rebuild_x: Callable[[Sequence[Tensor]], Any]

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.captured, *self.args]


def root_problem(
    name: str,
    residual: Callable[..., Any],
    x: Any,
    args: tuple,
    kwargs: dict[str, Any],
    solve: Solve,
    argnums: Sequence[int] | None = None,
) -> RootProblem:
    """State that `x` is a root of ``residual(x, *args, **kwargs)``.

    Derivatives reach every floating tensor in `args` and `kwargs` (the positions `argnums` of `args` only, if given)
    and every tensor that `residual` captures.
    """
    x_tensors, rebuild_x = tree.partition(x)
    tensors, rebuild = tree.partition((args, kwargs))
    _check_floating(name, x_tensors)
    count = len(x_tensors)

    def whole(*values: Tensor) -> list[Tensor]:
        positional, keyword = rebuild(values[count:])
        image = _tensors(residual(rebuild_x(values[:count]), *positional, **keyword))
        _check_image(name, image, values[:count])
        return image

    constants = [value.detach() for value in (*x_tensors, *tensors)]
    extra = _refuse_captured(name, whole, constants) if torch.compiler.is_compiling() else captured(whole, constants)
    with_extra = convert(whole, extra)
    rule = ResidualRule(
        lambda x_values, values: with_extra(values[: len(extra)], *x_values, *values[len(extra) :]),
        rebuild_x,
        solve,
        [True] * len(extra) + _differentiable(args, kwargs, argnums),
    )
    return RootProblem(rule, x_tensors, extra, tensors, rebuild_x)


def differentiate_root(
    name: str,
    residual: Callable[..., Any],
    x: Any,
    args: tuple,
    kwargs: dict[str, Any],
    solve: Solve,
    argnums: Sequence[int] | None = None,
) -> Any:
    """Return `x`, a root of ``residual(x, *args, **kwargs)``, with its derivatives (see :func:`root_problem`)."""
    problem = root_problem(name, residual, x, args, kwargs, solve, argnums)
    return problem.rebuild_x(attach(problem.rule, problem.x, problem.tensors))


def _refuse_captured(name: str, fn: Callable[..., list[Tensor]], constants: Sequence[Tensor]) -> list[Tensor]:
    """torch.compile cannot trace closure conversion, so that a captured tensor would lose its gradient there."""
    with torch.enable_grad():
        if any(value.requires_grad for value in fn(*constants)):
            raise RuntimeError(
                f"{name}: under torch.compile the residual must not capture a tensor that requires grad. "
                f"Pass it as an argument of the solver."
            )
    return []


def _tensors(value: Any) -> list[Tensor]:
    return tree.partition(value)[0]


def _differentiable(args: tuple, kwargs: dict[str, Any], argnums: Sequence[int] | None) -> list[bool]:
    flags = []
    for index, value in enumerate([*args, kwargs]):
        chosen = argnums is None or index in argnums
        flags += [chosen and t.is_floating_point() for t in _tensors(value)]
    return flags


def _check_floating(name: str, x: Sequence[Tensor]) -> None:
    for value in x:
        if not value.is_floating_point():
            raise ValueError(
                f"{name}: the solver returned a {value.dtype} tensor as part of the solution; expected floating point. "
                f"Return it as aux (has_aux=True)."
            )


def _check_image(name: str, image: Sequence[Tensor], x: Sequence[Tensor]) -> None:
    got, want = [tuple(t.shape) for t in image], [tuple(t.shape) for t in x]
    if got != want:
        raise ValueError(
            f"{name}: the residual returned tensors of shapes {got} but the solution has {want}; expected a residual "
            f"shaped like the solution, one equation per unknown."
        )
