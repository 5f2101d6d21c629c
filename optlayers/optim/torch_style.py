"""The same optimizers as `torch.optim.Optimizer` classes for ordinary training, generated from the functional ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from . import aliases
from .options import bind, class_signature
from .transformation import GradientTransformation, State, add_in_place


class TorchStyle(torch.optim.Optimizer):
    """A torch optimizer with the options of an optimizer of :mod:`optlayers.optim`, for training without a graph.

    Parameter groups, learning rate schedulers, hooks and ``state_dict``, which ``torch.load(weights_only=True)`` reads,
    are those of torch. Parameters without a gradient are skipped, and their step is not counted. Where a kernel takes
    the step of the functional optimizer, it takes this one in place.
    """

    _alias: ClassVar[Callable[..., GradientTransformation]]
    _names: ClassVar[list[str]]  # of the options of a group; torch adds some of its own to `defaults`
    _fused: bool = True  # of all groups: torch reads what a group has by this name in its own way

    def __init_subclass__(cls, alias: Callable[..., GradientTransformation]):
        cls._alias = staticmethod(alias)
        cls.__signature__ = class_signature("params", alias)
        cls._names = [name for name in list(cls.__signature__.parameters)[1:] if name != "fused"]

    def __init__(self, params: Iterable[Any], *args: Any, **options: Any):
        self._made: dict[int, _Made] = {}
        defaults = bind(type(self).__name__, self._alias, args, options)
        self._fused = defaults.pop("fused", True)
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_fused": self._fused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._made = {}  # functions, which are not pickled
        super().__setstate__(state)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own.

        Raises:
            TypeError: a schedule as learning rate; use :mod:`torch.optim.lr_scheduler`.
            ValueError: an option outside its range.
        """
        super().add_param_group(param_group)
        if callable(self.param_groups[-1]["lr"]):
            raise TypeError(
                f"{type(self).__name__}: lr is a function; expected a number or a tensor. Schedule it with "
                "torch.optim.lr_scheduler, or use the functional optimizer."
            )
        self._make(len(self.param_groups) - 1)

    def _make(self, index: int) -> _Made:
        """The transformation of a group, made again when an option was changed, by a scheduler say."""
        group = self.param_groups[index]
        options = [group[name] for name in self._names]
        made = self._made.get(index)
        if made is None or any(new is not old for new, old in zip(options, made.options, strict=True)):
            switch = {} if self._fused else {"fused": False}
            transformation = self._alias(**dict(zip(self._names, options, strict=True)), **switch)
            made = self._made[index] = _Made(options, transformation, transformation.init_list([]))
        return made

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by their ``.grad``.

        Args:
            closure: computes the loss again, with gradients, and returns it.

        Raises:
            RuntimeError: a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._step(self._make(index), params, [param.grad for param in params])
        return loss

    def _step(self, made: _Made, params: list[Tensor], grads: list[Tensor]) -> None:
        if any(grad.is_sparse for grad in grads):
            raise RuntimeError(f"{type(self).__name__}: a gradient is sparse; expected dense ones.")
        parts = [self.state[param] for param in params]
        new = [place for place, part in enumerate(parts) if not part]
        if new:
            _store(made.transformation.init_list([params[i] for i in new]), [parts[i] for i in new])
        for places in _buckets(parts):
            some, at, by = [parts[i] for i in places], [params[i] for i in places], [grads[i] for i in places]
            state, step = _join(made.template, some), made.transformation.step_list
            new = None if step is None else step(at, by, state)
            if new is None:
                updates, new = made.transformation.update_list(by, state, at, True)
                add_in_place(at, updates)
            _store(new, some)


class _Made(NamedTuple):
    options: list[Any]
    transformation: GradientTransformation
    template: State  # the structure of its states


Part = dict[
    str, Any
]  # what one parameter needs of the state of all, by the innermost keys; "step" is the same everywhere


def _buckets(parts: list[Part]) -> list[list[int]]:
    """The places of parameters with equal step counts: nearly always all of them."""
    if len({id(part.get("step")) for part in parts}) == 1:
        return [list(range(len(parts)))]
    buckets: dict[int, list[int]] = {}
    for place, part in enumerate(parts):
        buckets.setdefault(int(part["step"]), []).append(place)
    return list(buckets.values())


def _join(template: State, parts: list[Part]) -> State:
    """The state of all parameters, in the structure of `template`."""
    if isinstance(template, tuple):
        return tuple(_join(inner, parts) for inner in template)
    if isinstance(template, dict):
        return {
            key: [part[key] for part in parts] if isinstance(inner, list) else parts[0][key]
            for key, inner in template.items()
        }
    return template


def _store(state: State, parts: list[Part]) -> None:
    """Write to each part what :func:`_join` reads from it."""
    if isinstance(state, tuple):
        for inner in state:
            _store(inner, parts)
    elif isinstance(state, dict):
        for key, value in state.items():
            for part, mine in zip(parts, value if isinstance(value, list) else [value] * len(parts), strict=True):
                part[key] = mine


class SGD(TorchStyle, alias=aliases.sgd):
    """:func:`~optlayers.optim.sgd` as a torch optimizer."""


class Adam(TorchStyle, alias=aliases.adam):
    """:func:`~optlayers.optim.adam` as a torch optimizer."""


class AdamW(TorchStyle, alias=aliases.adamw):
    """:func:`~optlayers.optim.adamw` as a torch optimizer."""


class NAdam(TorchStyle, alias=aliases.nadam):
    """:func:`~optlayers.optim.nadam` as a torch optimizer."""


class RAdam(TorchStyle, alias=aliases.radam):
    """:func:`~optlayers.optim.radam` as a torch optimizer."""


class Adamax(TorchStyle, alias=aliases.adamax):
    """:func:`~optlayers.optim.adamax` as a torch optimizer."""


class Adadelta(TorchStyle, alias=aliases.adadelta):
    """:func:`~optlayers.optim.adadelta` as a torch optimizer."""


class Adagrad(TorchStyle, alias=aliases.adagrad):
    """:func:`~optlayers.optim.adagrad` as a torch optimizer."""


class RMSprop(TorchStyle, alias=aliases.rmsprop):
    """:func:`~optlayers.optim.rmsprop` as a torch optimizer."""


class Adan(TorchStyle, alias=aliases.adan):
    """:func:`~optlayers.optim.adan` as a torch optimizer."""


class Lion(TorchStyle, alias=aliases.lion):
    """:func:`~optlayers.optim.lion` as a torch optimizer."""


class Lamb(TorchStyle, alias=aliases.lamb):
    """:func:`~optlayers.optim.lamb` as a torch optimizer."""
