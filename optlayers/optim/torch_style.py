"""The same optimizers as `torch.optim.Optimizer` classes for ordinary training, generated from the functional ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import aliases, fused
from .options import bind, class_signature
from .transformation import GradientTransformation, State, add_in_place


class TorchStyle(torch.optim.Optimizer):
    """A torch optimizer with the options of an optimizer of :mod:`optlayers.optim`, for training without a graph.

    Parameter groups, learning rate schedulers, hooks and ``state_dict``, which ``torch.load(weights_only=True)`` reads,
    are those of torch. Parameters without a gradient are skipped, and their step is not counted.
    """

    _alias: ClassVar[Callable[..., GradientTransformation]]
    _names: ClassVar[list[str]]  # of its options; torch adds some of its own to `defaults`

    def __init_subclass__(cls, alias: Callable[..., GradientTransformation]):
        cls._alias = staticmethod(alias)
        cls.__signature__ = class_signature("params", alias)
        cls._names = list(cls.__signature__.parameters)[1:]

    def __init__(self, params: Iterable[Any], *args: Any, **options: Any):
        super().__init__(params, bind(type(self).__name__, self._alias, args, options))

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
        self._transformation(self.param_groups[-1])

    def _transformation(self, group: dict[str, Any]) -> GradientTransformation:
        return self._alias(**{name: group[name] for name in self._names})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters by their ``.grad``.

        Args:
            closure: computes the loss again, with gradients, and returns it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            grads = {param: param.grad for param in group["params"] if param.grad is not None}
            if grads:
                self._step(self._transformation(group), grads)
        return loss

    def _step(self, transformation: GradientTransformation, grad_of: dict[Tensor, Tensor]) -> None:
        params = list(grad_of)
        if any(grad.is_sparse for grad in grad_of.values()):
            raise RuntimeError(f"{type(self).__name__}: a gradient is sparse; expected dense ones.")
        new = [param for param in params if param not in self.state]
        if new:
            self._store(new, transformation.init_list(new))
        template = transformation.init_list([])
        for bucket in self._buckets(params):
            state = _join(template, [self.state[param] for param in bucket])
            grads = [grad_of[param] for param in bucket]
            if transformation.step_list is not None and fused.fits(bucket, grads):
                state = transformation.step_list(bucket, grads, state)
            else:
                updates, state = transformation.update_list(grads, state, bucket, True)
                add_in_place(bucket, updates)
            self._store(bucket, state)

    def _store(self, params: list[Tensor], state: State) -> None:
        for place, param in enumerate(params):
            self.state[param] = _split(state, place)

    def _buckets(self, params: list[Tensor]) -> list[list[Tensor]]:
        """Parameters with equal step counts together: nearly always all of them."""
        buckets: dict[tuple[float, ...], list[Tensor]] = {}
        for param in params:
            counts = tuple(part["step"].item() for part in self.state[param].values() if "step" in part)
            buckets.setdefault(counts, []).append(param)
        return list(buckets.values())


def _split(state: State, place: int) -> State:
    """What one parameter needs of the state of all; tuples become dicts, and empty ones vanish."""
    if isinstance(state, list):
        return state[place]
    if isinstance(state, tuple):
        state = {str(index): inner for index, inner in enumerate(state) if inner != ()}
    return {key: _split(inner, place) for key, inner in state.items()} if isinstance(state, dict) else state


def _join(template: State, parts: list[Any]) -> State:
    """The state of all parameters, in the structure of `template`, from what :func:`_split` made of it."""
    if isinstance(template, list):
        return parts
    if isinstance(template, tuple):
        return tuple(
            _join(inner, [part[str(index)] for part in parts]) if inner != () else ()
            for index, inner in enumerate(template)
        )
    if isinstance(template, dict):
        return {key: _join(inner, [part[key] for part in parts]) for key, inner in template.items()}
    return parts[0]


class SGD(TorchStyle, alias=aliases.sgd):
    """:func:`~optlayers.optim.sgd` as a torch optimizer."""


class Adam(TorchStyle, alias=aliases.adam):
    """:func:`~optlayers.optim.adam` as a torch optimizer: one kernel if all options are numbers and `eps_root` is 0."""


class AdamW(TorchStyle, alias=aliases.adamw):
    """:func:`~optlayers.optim.adamw` as a torch optimizer; one kernel, like :class:`Adam`."""


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
