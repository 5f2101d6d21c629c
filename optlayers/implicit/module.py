"""A module whose parameters solve a problem posed by its meta-parameters, differentiable with respect to the latter."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .._base import tree
from ..linear_solve import Auto
from .residual import Solve, differentiate_root
from .tracking import paused, recording


class ImplicitModule(nn.Module):
    r"""A module with an inner problem: ``solve`` finds its parameters, and they are differentiable in what poses it.

    .. math:: w^\star(\theta) = \arg\min_w f(w, \theta) \quad\text{or}\quad F(w^\star(\theta), \theta) = 0

    Tensors and modules given to ``__init__`` and assigned to an attribute are *meta*: they are :math:`\theta`. All
    other parameters are *inner*: they are :math:`w`. A subclass writes ``solve(*args)``, which brings the inner
    parameters to the solution in any way it likes (it runs untracked; ``torch.enable_grad()`` inside is fine) and
    returns ``self`` or anything else, and one of

    - ``objective(*args)``, a scalar; its gradient in the inner parameters is the optimality condition;
    - ``optimality(*args)``, zero at the solution: tensors with, in all, as many entries as the inner parameters.

    After ``solve`` the inner parameters have derivatives of any order, by the implicit function theorem (IFT-2), in the
    meta-parameters, in tensors among ``args``, and in whatever else the condition uses. The next ``solve`` starts from
    them as ordinary leaves again. A frozen inner parameter (``requires_grad=False``) is a constant.

    ``parameters()`` are the inner parameters alone, so that an inner optimizer can be given them;
    ``meta_parameters()`` are the others. ``.to()``, ``.train()``, ``state_dict()`` and ``copy.deepcopy`` reach both.
    Batch normalization in training mode uses the statistics of the batch while the condition is differentiated, and its
    running statistics change in ``solve`` only.

    Class options:
        linear_solve: as in :func:`~optlayers.custom_root`, ``class Inner(ImplicitModule, linear_solve=CG()): ...``.

    Raises:
        TypeError: the class has neither ``objective`` nor ``optimality``.
        ValueError: the condition has another number of entries than the inner parameters.

    References: Rajeswaran et al., "Meta-learning with implicit gradients" (2019).
    """

    _linear_solve: Solve | None = None
    _given: list[Tensor | nn.Module]  # what __init__ was called with
    _meta_names: set[str]
    _leaves: dict[str, Tensor]  # the leaf that each solution stands for, by name
    _held: set[str] | None  # names of the inner parameters that hold other values just now
    _solving: bool

    def __init_subclass__(cls, linear_solve: Solve | None = None, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if linear_solve is not None:
            cls._linear_solve = staticmethod(linear_solve)
        if "solve" in cls.__dict__:
            cls.solve = _differentiable(cls.__dict__["solve"])

    def __new__(cls, *args: Any, **kwargs: Any):
        module = super().__new__(cls)
        given = [leaf for leaf in tree.leaves((args, kwargs)) if isinstance(leaf, Tensor | nn.Module)]
        # Past __setattr__, which works only once nn.Module.__init__ has run.
        module.__dict__.update(_given=given, _meta_names=set(), _leaves={}, _held=None, _solving=False)
        return module

    def __setattr__(self, name: str, value: Any) -> None:
        if any(value is given for given in self._given):
            self._register_meta(name, value)
        else:
            self._meta_names.discard(name)
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._meta_names.discard(name)
        super().__delattr__(name)

    def register_meta_parameter(self, name: str, value: Tensor) -> None:
        """Hold a tensor, a leaf or not, as a meta-parameter."""
        if not isinstance(value, Tensor):
            raise TypeError(f"register_meta_parameter: {name} is a {type(value).__name__}; expected a tensor.")
        self._register_meta(name, value)

    def register_meta_module(self, name: str, module: nn.Module) -> None:
        """Hold a module whose parameters are meta-parameters."""
        if not isinstance(module, nn.Module):
            raise TypeError(f"register_meta_module: {name} is a {type(module).__name__}; expected a module.")
        self._register_meta(name, module)

    def _register_meta(self, name: str, value: Tensor | nn.Module) -> None:
        if name in self.__dict__.get("_buffers", {}):
            super().__delattr__(name)
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value)  # moves and is saved with the module, and keeps its graph
        else:
            super().__setattr__(name, value)
        self._meta_names.add(name)

    def named_meta_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The meta-parameters and their names."""
        seen = set()
        for name in sorted(self._meta_names):
            value = getattr(self, name)
            held = [(name, value)] if isinstance(value, Tensor) else value.named_parameters(prefix=name)
            for full_name, parameter in held:
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield full_name, parameter

    def meta_parameters(self) -> Iterator[Tensor]:
        """The meta-parameters: tensors given to ``__init__``, and parameters of modules given to it."""
        for _, parameter in self.named_meta_parameters():
            yield parameter

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The inner parameters and their names."""
        meta = {id(parameter) for parameter in self.meta_parameters()}
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if id(parameter) not in meta:
                yield name, parameter

    def solve(self, *args: Any, **kwargs: Any) -> Any:
        """Bring the inner parameters to the solution; to be written by the subclass."""
        raise NotImplementedError(f"{type(self).__name__}.solve: expected a method that solves the inner problem.")

    def objective(self, *args: Any, **kwargs: Any) -> Tensor:
        """What ``solve`` minimizes, a scalar; or write ``optimality``."""
        raise TypeError(
            f"{type(self).__name__} has neither objective nor optimality; expected one of them, with solve's arguments."
        )

    def optimality(self, *args: Any, **kwargs: Any) -> Any:
        """The condition that holds at the solution: the gradient of the objective, unless overridden."""
        unknowns = self._unknowns()

        def objective(values: Sequence[Tensor]) -> Tensor:
            with _holding(self, unknowns, values):
                return self.objective(*args, **kwargs)

        return torch.func.grad(objective)([parameter for _, parameter in unknowns])

    def _unknowns(self) -> list[tuple[str, Tensor]]:
        held = self._held
        return [
            (name, parameter)
            for name, parameter in self.named_parameters()
            if (parameter.requires_grad if held is None else name in held)
        ]

    def _restore_leaves(self) -> None:
        """Put leaves in the place of a solution, with its values: the same objects that were there before."""
        if self._leaves:
            _put(self, list(self._leaves), list(self._leaves.values()))
            self._leaves.clear()

    def _attach(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Put the solution, with its derivatives, in the place of the inner parameters."""
        unknowns = self._unknowns()

        def residual(values: Sequence[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
            with _holding(self, unknowns, values):
                image = tree.partition(self.optimality(*args, **kwargs))[0]
            return _shaped_like(image, values, type(self).__name__)

        solve = Auto() if self._linear_solve is None else self._linear_solve
        values = [parameter for _, parameter in unknowns]
        solution = differentiate_root(type(self).__name__, residual, values, args, kwargs, solve)
        self._leaves.update(unknowns)
        _put(self, [name for name, _ in unknowns], solution)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True):
        self._restore_leaves()  # only a leaf can be moved
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]):
        # Solutions are results of a graph, which cannot be copied: the copy has the leaves they stand for.
        solutions = dict(self._unknowns())
        for name, leaf in self._leaves.items():
            memo[id(solutions[name])] = copy.deepcopy(leaf, memo)
        duplicate = type(self).__new__(type(self))
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo))
        duplicate.__dict__["_leaves"] = {}
        return duplicate


def _differentiable(solve: Callable[..., Any]) -> Callable[..., Any]:
    """`solve` run untracked, and its result, the inner parameters, attached to the meta-parameters."""

    @functools.wraps(solve)
    def differentiable(self: ImplicitModule, *args: Any, **kwargs: Any) -> Any:
        if self._solving:  # a subclass calls super().solve
            return solve(self, *args, **kwargs)
        self._restore_leaves()
        self.__dict__["_solving"] = True
        try:
            with paused():
                result = solve(self, *args, **kwargs)
        finally:
            self.__dict__["_solving"] = False
        if recording():
            self._attach(args, kwargs)
        return result

    return differentiable


def _put(module: nn.Module, names: Sequence[str], values: Sequence[Tensor]) -> None:
    """Set parameters to tensors, which need not be leaves, wherever modules share them."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            places.setdefault(id(parameter), []).append((owner, name))
    for name, value in zip(names, values, strict=True):
        *path, leaf = name.split(".")
        old = module.get_submodule(".".join(path))._parameters[leaf]
        for owner, at in places[id(old)]:
            owner._parameters[at] = value  # pyright: ignore[reportArgumentType]


@contextmanager
def _holding(
    module: ImplicitModule, unknowns: Sequence[tuple[str, Tensor]], values: Sequence[Tensor]
) -> Iterator[None]:
    """The module with `values` for its inner parameters, and without running statistics, as a function needs it."""
    names = [name for name, _ in unknowns]
    current = dict(module.named_parameters())
    before = [current[name] for name in names]
    outer, module.__dict__["_held"] = module._held, set(names)
    counting = [m for m in module.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    _put(module, names, values)
    for norm in counting:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in counting:
            norm.track_running_stats = True
        module.__dict__["_held"] = outer
        _put(module, names, before)


def _shaped_like(image: Sequence[Tensor], values: Sequence[Tensor], name: str) -> list[Tensor]:
    """The condition with the shapes of the unknowns, in their order: it may come in any pieces, such as rows."""
    if [value.shape for value in image] == [value.shape for value in values]:
        return list(image)
    got, want = (sum(value.numel() for value in side) for side in (image, values))
    if got != want:
        raise ValueError(
            f"{name}: optimality has {got} entries, in tensors of shapes {[tuple(v.shape) for v in image]}, but there "
            f"are {want} inner parameters, of shapes {[tuple(v.shape) for v in values]}; expected one condition for "
            f"each. Meta-parameters are those given to __init__; freeze what is neither."
        )
    flat = torch.cat([value.reshape(-1) for value in image]).split([value.numel() for value in values])
    return [piece.reshape(value.shape) for piece, value in zip(flat, values, strict=True)]
