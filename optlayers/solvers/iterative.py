"""What every iterative solver is: frozen options, and init, step and done on a state that holds all that moves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .._base import tree
from .._base.loop import Iteration, iterate
from .._base.status import Status
from .._base.tree import Tree


class Flat:
    """A function of the raveled unknown ``(*batch, N)``, and the way back to the tree that users' functions take."""

    def __init__(self, call: Callable[[Tensor], Tensor], unravel: Callable[[Tensor], Tree], batch_ndim: int):
        self.call, self.unravel, self.batch_ndim = call, unravel, batch_ndim

    def __call__(self, x: Tensor) -> Tensor:
        return self.call(x)

    def ravel(self, value: Tree) -> Tensor:
        """The tensors of a tree as one ``(*batch, M)``."""
        return tree.ravel(value, self.batch_ndim)[0]


class State(Protocol):
    """The least that a state holds; states are named tuples of tensors ``(*batch, ...)``."""

    @property
    def x(self) -> Tensor:
        """``(*batch, N)``: all tensors of the unknown, raveled."""
        ...

    @property
    def error(self) -> Tensor:
        """``(*batch)``: what has to fall to ``rtol``."""
        ...


@dataclass(frozen=True)
class IterativeSolver(ABC):
    """A method given by its options; solving keeps nothing on it.

    Args:
        rtol: a sample has converged when its `error` is at most this. None: 1e-10 in float64, 1e-5 in float32.
        max_steps: limit on the steps.
        steps: take exactly so many steps instead, and count where they end as the solution: what a training of given
            length arrives at, say. The optimality residual is not zero there, so that :class:`~optlayers.Implicit` is
            an approximation; :class:`~optlayers.Unroll` is exact.
        batch_ndim: so many leading dimensions of every tensor of ``x`` index independent samples.
    """

    rtol: float | None = field(default=None, kw_only=True)
    max_steps: int = field(default=1000, kw_only=True)
    steps: int | None = field(default=None, kw_only=True)
    batch_ndim: int = field(default=0, kw_only=True)

    @abstractmethod
    def init(self, fn: Flat, x: Tensor) -> Any:
        """The state to start from, for a function of the raveled unknown ``(*batch, N)``."""

    @abstractmethod
    def step(self, fn: Flat, state: Any) -> Any:
        """The next state."""

    def done(self, state: Any) -> Tensor:
        """``(*batch)`` bool: converged."""
        if self.steps is not None:
            return torch.zeros_like(state.error, dtype=torch.bool)
        return state.error <= self.tolerance(state.x.dtype)

    def watch(self, state: Any) -> Any:
        """What is not finite as soon as anything in the state is not."""
        return state.x, state.error

    def tolerance(self, dtype: torch.dtype) -> float:
        """`rtol`, or the default of the dtype."""
        return self.rtol if self.rtol is not None else (1e-10 if dtype == torch.float64 else 1e-5)

    def __call__(self, fn: Callable[[Tree], Any], init: Tree) -> tuple[Tree, Tensor, Tensor, Tensor]:
        """Return ``x``, status ``(*batch)``, steps taken ``(*batch)``, and the last error ``(*batch, 1)``."""
        return self.outcome(self.run(fn, init), init)

    def outcome(self, end: Iteration, init: Tree) -> tuple[Tree, Tensor, Tensor, Tensor]:
        """What calling the solver returns, from how its iteration ended."""
        status = torch.where(end.done, int(Status.SOLVED), int(Status.MAX_STEPS))
        status = torch.where(end.failed, int(Status.NUMERICAL_ERROR), status)
        _, unravel = tree.ravel(init, self.batch_ndim)
        return unravel(end.state.x), status, end.steps, end.state.error[..., None]

    def run(
        self,
        fn: Callable[[Tree], Any],
        init: Tree,
        record: Callable[[Any], Tree] | None = None,
        state: Any = None,
    ) -> Iteration:
        """The same with all there is to know: the last state, masks, and what `record` gave of every state.

        A `state` that an earlier run ended with is where to go on from.
        """
        x, unravel = tree.ravel(init, self.batch_ndim)
        self.check(x)
        flat = Flat(self.flat(fn, unravel), unravel, self.batch_ndim)
        end = iterate(
            lambda state: self.step(flat, state),
            self.init(flat, x) if state is None else state,
            self.done,
            self.max_steps if self.steps is None else self.steps,
            record=record,
            watch=self.watch,
        )
        return end if self.steps is None else end._replace(done=~end.failed)

    def check(self, x: Tensor) -> None:
        """Look at the start, and at the options.

        Raises:
            ValueError: `x` is neither float32 nor float64, or an option does not fit.
        """
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{type(self).__name__}: init has dtype {x.dtype}; expected torch.float32 or torch.float64."
            )
        if self.steps is not None and self.steps < 0:
            raise ValueError(f"{type(self).__name__}: steps is {self.steps}; expected None, or at least 0.")

    @abstractmethod
    def flat(self, fn: Callable[[Tree], Any], unravel: Callable[[Tensor], Tree]) -> Callable[[Tensor], Tensor]:
        """`fn` as a function of the raveled unknown."""


@dataclass(frozen=True)
class SquareSolver(IterativeSolver):
    """A solver for functions whose value has the structure of the unknown."""

    def flat(self, fn: Callable[[Tree], Tree], unravel: Callable[[Tensor], Tree]) -> Callable[[Tensor], Tensor]:
        def flat(x: Tensor) -> Tensor:
            value, _ = tree.ravel(fn(unravel(x)), self.batch_ndim)
            if value.shape != x.shape:
                raise ValueError(
                    f"{type(self).__name__}: fn returned tensors that ravel to {tuple(value.shape)} but init to "
                    f"{tuple(x.shape)} (batch, unknowns); expected the same shapes."
                )
            return value

        return flat


@dataclass(frozen=True)
class FixedPointSolver(SquareSolver):
    """Finds ``x == fn(x)``."""


@dataclass(frozen=True)
class RootSolver(SquareSolver):
    """Finds ``fn(x) == 0``."""


@dataclass(frozen=True)
class Minimiser(IterativeSolver):
    """Finds a minimum of ``fn(x)``, one number per sample."""

    def flat(self, fn: Callable[[Tree], Tensor], unravel: Callable[[Tensor], Tree]) -> Callable[[Tensor], Tensor]:
        def flat(x: Tensor) -> Tensor:
            value = fn(unravel(x))
            if value.shape != x.shape[:-1]:
                raise ValueError(
                    f"{type(self).__name__}: the objective returned a tensor of shape {tuple(value.shape)}; expected "
                    f"{tuple(x.shape[:-1])}, one number per sample (batch_ndim is {self.batch_ndim})."
                )
            return value

        return flat

    @abstractmethod
    def optimality(self, objective: Callable[..., Tensor]) -> Callable[..., Tree]:
        """``residual(x, *args)``, zero at a minimum of ``objective(x, *args)``: what to differentiate."""


@torch.no_grad()
def relative(move: Tensor, x: Tensor) -> Tensor:
    """(*batch): ``||move|| / (1 + ||x||)``, the error that most methods stop on."""
    return torch.linalg.vector_norm(move, dim=-1) / (1 + torch.linalg.vector_norm(x, dim=-1))


def inner(a: Tensor, b: Tensor) -> Tensor:
    """(*batch, 1): inner product over the last dimension, kept as a column that broadcasts over vectors."""
    return (a * b).sum(-1, keepdim=True)
