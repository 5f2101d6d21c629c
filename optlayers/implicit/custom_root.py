"""Decorators that make a solver of the user's differentiable, and the two products of its Jacobian."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .._base import tree
from ..linear_solve import Auto
from .residual import Solve, differentiate_root, root_problem
from .rule import attach, forward, reverse
from .tracking import paused, recording


def custom_root(
    residual: Callable[..., Any],
    argnums: int | Sequence[int] | None = None,
    has_aux: bool = False,
    solve: Solve | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    r"""Make a solver differentiable through the optimality conditions of what it solves.

    .. math:: F(x^\star(\theta), \theta) = 0 \quad\Rightarrow\quad
              \frac{\partial F}{\partial x}\,\mathrm{d}x^\star = -\frac{\partial F}{\partial\theta}\,\mathrm{d}\theta

    Decorates ``solver(init, *args, **kwargs)``, which may do anything (a Python loop, scipy, a C library): it runs
    untracked, and its result is differentiated by the implicit function theorem (IFT-2), in both modes, at any order.
    The error of the gradient is at most proportional to the error of the solution.

    Args:
        residual: ``residual(x, *args, **kwargs)``, zero at the solution, with the structure and shapes of ``x``.
            Tensors that it captures from its surroundings, such as a module's parameters, get their gradient too.
        argnums: positions in the solver's signature (``init`` is 0, and gets no gradient) that are differentiated;
            all others are constants. None: every floating tensor.
        has_aux: the solver returns ``(x, aux)``; ``aux`` gets no gradient.
        solve: linear solver for ``dF/dx``: one of :mod:`optlayers.linear_solve`, or any function
            ``solve(matvec, b) -> x`` on pytrees like ``x``. None: :class:`~optlayers.linear_solve.Auto`.

    Returns:
        A decorator. The decorated solver returns what the solver returns; ``x``, the arguments and ``aux`` are
        pytrees, mixed with anything that is not a tensor.

    Raises:
        ValueError: ``argnums`` names ``init``, or the residual's shapes are not those of the solution.

    References: Blondel et al., "Efficient and modular implicit differentiation" (2022), equation 2.
    """
    chosen = _argument_positions(argnums)
    solve = Auto() if solve is None else solve

    def decorate(solver: Callable[..., Any]) -> Callable[..., Any]:
        name = getattr(solver, "__name__", "solver")

        @functools.wraps(solver)
        def differentiable(*args: Any, **kwargs: Any) -> Any:
            (init, *rest), kwargs = _normalise(solver, args, kwargs)
            with paused():
                result = solver(init, *rest, **kwargs)
            x, aux = result if has_aux else (result, None)
            x = tree.map(_detach, x)
            if recording():
                x = differentiate_root(name, residual, x, tuple(rest), kwargs, solve, chosen)
            return (x, tree.map(_detach, aux)) if has_aux else x

        return differentiable

    return decorate


def custom_fixed_point(
    fn: Callable[..., Any],
    argnums: int | Sequence[int] | None = None,
    has_aux: bool = False,
    solve: Solve | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    r"""Make a solver of a fixed point ``fn(x, *args) == x`` differentiable.

    .. math:: x^\star = f(x^\star, \theta) \quad\Rightarrow\quad
              \Bigl(I - \frac{\partial f}{\partial x}\Bigr)\mathrm{d}x^\star
              = \frac{\partial f}{\partial\theta}\,\mathrm{d}\theta

    The same as :func:`custom_root` with residual ``x - fn(x, *args)``, so that
    :class:`~optlayers.linear_solve.Neumann` with ``terms=k`` makes the gradient of ``k`` backward iterations, and
    :class:`~optlayers.linear_solve.Identity` the Jacobian-free one.

    Args:
        fn: ``fn(x, *args, **kwargs)``, with the structure and shapes of ``x``.
        argnums, has_aux, solve: as in :func:`custom_root`.

    References: Bai et al., "Deep equilibrium models" (2019); Wu Fung et al., "JFB" (2021).
    """

    def residual(x: Any, *args: Any, **kwargs: Any) -> Any:
        return tree.map(lambda value, image: value - image, x, fn(x, *args, **kwargs))

    return custom_root(residual, argnums, has_aux, solve)


def root_vjp(residual: Callable[..., Any], x: Any, args: tuple, cotangent: Any, solve: Solve | None = None) -> tuple:
    """The product of `cotangent` with the Jacobian of a root with respect to each of `args`: one reverse-mode step.

    Args:
        residual: ``residual(x, *args)``, zero at ``x``.
        x: the root.
        args: tuple of pytrees.
        cotangent: like ``x``.
        solve: as in :func:`custom_root`.

    Returns:
        A tuple like `args`; None where an argument is not a floating tensor. Differentiable again.
    """
    problem = root_problem("root_vjp", residual, x, args, {}, Auto() if solve is None else solve)
    at = attach(problem.rule, problem.x, problem.tensors)
    grads = reverse(problem.rule, at, problem.tensors, tree.leaves(cotangent), problem.rule.differentiable)
    found = iter(grads[len(problem.captured) :])
    return tree.map(lambda leaf: next(found) if isinstance(leaf, Tensor) else None, args)


def root_jvp(residual: Callable[..., Any], x: Any, args: tuple, tangents: tuple, solve: Solve | None = None) -> Any:
    """The change of a root along `tangents`, the changes of `args`: one forward-mode step.

    Args:
        residual: ``residual(x, *args)``, zero at ``x``.
        x: the root.
        args: tuple of pytrees.
        tangents: like ``args``; None for an argument that does not change.
        solve: as in :func:`custom_root`.

    Returns:
        A pytree like ``x``. Differentiable again.
    """
    problem = root_problem("root_jvp", residual, x, args, {}, Auto() if solve is None else solve)
    at = attach(problem.rule, problem.x, problem.tensors)
    flat: list[Tensor | None] = [None] * len(problem.captured)
    for value, tangent in zip(args, tangents, strict=True):
        tensors, _ = tree.partition(value)
        flat += [None] * len(tensors) if tangent is None else tree.partition(tangent)[0]
    return problem.rebuild_x(forward(problem.rule, at, problem.tensors, flat))


def _argument_positions(argnums: int | Sequence[int] | None) -> list[int] | None:
    """`argnums` of the solver as positions in its arguments after `init`."""
    if argnums is None:
        return None
    positions = [argnums] if isinstance(argnums, int) else list(argnums)
    if any(position < 1 for position in positions):
        raise ValueError(
            f"custom_root: argnums={argnums} names position 0, the initial guess, or a negative one; expected "
            f"positions from 1 on. The initial guess gets no gradient, since the root does not depend on it."
        )
    return [position - 1 for position in positions]


def _normalise(solver: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Arguments passed by name moved to their position where they have one, so that `argnums` finds them."""
    if not kwargs:
        return args, kwargs
    bound = inspect.signature(solver).bind(*args, **kwargs)
    return bound.args, bound.kwargs


def _detach(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
