"""`MetaOptimizer`: trains a module by steps that stay in the graph, so that the training can be differentiated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._base import tree
from . import aliases
from .options import bind, class_signature
from .slots import Slot, get_parameter, parameter_slots, put_parameter
from .transformation import GradientTransformation, State, apply_updates

Groups = nn.Module | Sequence[Mapping[str, Any]]


@dataclass
class _Group:
    slots: list[list[Slot]]  # one list for each parameter: all the places where it is tied
    transformation: GradientTransformation
    state: State

    def params(self) -> list[Tensor]:
        return [get_parameter(places[0]) for places in self.slots]


class MetaOptimizer:
    """Train the parameters of a module by differentiable steps.

    After ``step(loss)`` the module holds new tensors: functions of the old ones, the hyper-parameters and what the
    loss was made of. Derivatives of a later loss flow through them, at any order. Parameters with
    ``requires_grad=False`` are left alone, tied ones stay tied, and one that the loss does not depend on does not move.

    Gradients are those of this process: ``DistributedDataParallel`` does not average them.

    The graph grows with the steps. :func:`~optlayers.stop_gradient` of the module and of the optimizer ends it, and
    leaves the module with ordinary parameters.

    Args:
        module: the module; or a list of parameter groups, dicts with ``"module"``, perhaps ``"names"``, a list of names
            of its parameters if not all are meant, and perhaps ``"transformation"``.
        transformation: what turns gradients into updates, for the groups that do not have their own.
        first_order: take gradients as constants (first-order MAML): cheaper, approximate.
        truncate: cut the graph before every `truncate`-th step: the loss of that step counts as constant, and so does
            all that was before. So at most so many steps are differentiated; approximate.

    Raises:
        ValueError: no parameter that requires a gradient, or one that is in two groups.
    """

    def __init__(
        self,
        module: Groups,
        transformation: GradientTransformation,
        *,
        first_order: bool = False,
        truncate: int | None = None,
    ):
        if truncate is not None and truncate < 1:
            raise ValueError(f"{type(self).__name__}: truncate is {truncate}; expected at least 1.")
        self.first_order = first_order
        self.truncate = truncate
        self._transformation = transformation
        self._groups: list[_Group] = []
        self._steps = 0
        for group in [module] if isinstance(module, nn.Module) else module:
            self.add_param_group(group)

    def add_param_group(self, group: nn.Module | Mapping[str, Any]) -> None:
        """Train the parameters of another module, or of a group as the constructor takes it."""
        options: dict[str, Any] = {"module": group} if isinstance(group, nn.Module) else dict(group)
        if not isinstance(module := options.pop("module", None), nn.Module):
            raise TypeError(f"{type(self).__name__}: the group {group!r} has no nn.Module under 'module'.")
        slots = self._collect(module, options.pop("names", None))
        transformation = self._group_transformation(options)
        state = transformation.init([get_parameter(places[0]) for places in slots])
        self._groups.append(_Group(slots, transformation, state))

    def _group_transformation(self, options: dict[str, Any]) -> GradientTransformation:
        transformation = options.pop("transformation", self._transformation)
        if options:
            raise TypeError(f"{type(self).__name__}: a group has {sorted(options)}; expected 'transformation' only.")
        return transformation

    def _collect(self, module: nn.Module, names: Sequence[str] | None) -> list[list[Slot]]:
        owner = type(self).__name__
        taken = {id(parameter) for group in self._groups for parameter in group.params()}
        found = dict(parameter_slots(module))
        if names is not None and (missing := [name for name in names if name not in found]):
            raise ValueError(f"{owner}: the module has no parameter {missing}; it has {list(found)}.")
        places: dict[int, list[Slot]] = {}
        wanted: set[int] = set()
        for name, slot in found.items():
            parameter = get_parameter(slot)
            if parameter.requires_grad:
                places.setdefault(id(parameter), []).append(slot)
                if names is None or name in names:
                    wanted.add(id(parameter))
        if not wanted:
            raise ValueError(f"{owner}: no parameter of the module requires a gradient.")
        if taken & wanted:
            raise ValueError(f"{owner}: a parameter is in two groups; expected each in one.")
        return [slots for key, slots in places.items() if key in wanted]

    def step(self, loss: Tensor) -> None:
        """One update of all parameters.

        Args:
            loss: a scalar that depends on parameters of the module as they are now.

        Raises:
            ValueError: a loss that is no scalar, or depends on none of the parameters.
        """
        owner = type(self).__name__
        if loss.numel() != 1:
            raise ValueError(f"{owner}.step: loss has shape {tuple(loss.shape)}; expected a scalar.")
        if not loss.requires_grad:
            raise ValueError(f"{owner}.step: loss does not require a gradient; was it computed under no_grad?")
        cut = self.truncate is not None and self._steps > 0 and self._steps % self.truncate == 0
        params = [group.params() for group in self._groups]
        grads = torch.autograd.grad(
            loss,
            [param for part in params for param in part],
            create_graph=not (self.first_order or cut),
            retain_graph=True,  # what the loss shares with a later one must survive
            allow_unused=True,
        )
        if all(grad is None for grad in grads):
            raise ValueError(
                f"{owner}.step: loss depends on no parameter as it is now; compute it anew after each step."
            )
        remaining = list(grads)
        for group, at in zip(self._groups, params, strict=True):
            mine, remaining = remaining[: len(at)], remaining[len(at) :]
            if cut:
                at = [param.detach().requires_grad_() for param in at]
                group.state = tree.map(_detach, group.state)
            updates, group.state = group.transformation.update(mine, group.state, at)
            for places, param in zip(group.slots, apply_updates(at, updates), strict=True):
                for slot in places:
                    put_parameter(slot, param)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The states of the groups, by reference (they are never changed in place), and the number of steps."""
        return {"groups": [group.state for group in self._groups], "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            ValueError: another number of groups.
        """
        if len(state["groups"]) != len(self._groups):
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: state has {len(state['groups'])} groups; "
                f"expected {len(self._groups)}."
            )
        for group, inner in zip(self._groups, state["groups"], strict=True):
            group.state = inner
        self._steps = state["steps"]

    def stop_gradient(self) -> None:
        """Cut the history of the states; that of the parameters is the module's: ``stop_gradient(module)``."""
        for group in self._groups:
            group.state = tree.map(_detach, group.state)


def _detach(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


class MetaAlias(MetaOptimizer):
    """A :class:`MetaOptimizer` with the options of a function of :mod:`optlayers.optim`, which groups may override."""

    _alias: ClassVar[Callable[..., GradientTransformation]]

    def __init_subclass__(cls, alias: Callable[..., GradientTransformation]):
        cls._alias = staticmethod(alias)
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in (("first_order", False), ("truncate", None))
        ]
        cls.__signature__ = class_signature("module", alias, *keywords)

    def __init__(
        self, module: Groups, *args: Any, first_order: bool = False, truncate: int | None = None, **options: Any
    ):
        self._options = bind(type(self).__name__, self._alias, args, options)
        super().__init__(module, self._alias(**self._options), first_order=first_order, truncate=truncate)

    def _group_transformation(self, options: dict[str, Any]) -> GradientTransformation:
        if not options:
            return self._transformation
        return self._alias(**bind(type(self).__name__, self._alias, (), {**self._options, **options}))


class MetaSGD(MetaAlias, alias=aliases.sgd):
    """Differentiable :func:`~optlayers.optim.sgd`; a :class:`~optlayers.MetaOptimizer`."""


class MetaAdam(MetaAlias, alias=aliases.adam):
    """Differentiable :func:`~optlayers.optim.adam`; a :class:`~optlayers.MetaOptimizer`."""


class MetaAdamW(MetaAlias, alias=aliases.adamw):
    """Differentiable :func:`~optlayers.optim.adamw`; a :class:`~optlayers.MetaOptimizer`."""


class MetaNAdam(MetaAlias, alias=aliases.nadam):
    """Differentiable :func:`~optlayers.optim.nadam`; a :class:`~optlayers.MetaOptimizer`."""


class MetaRAdam(MetaAlias, alias=aliases.radam):
    """Differentiable :func:`~optlayers.optim.radam`; a :class:`~optlayers.MetaOptimizer`."""


class MetaAdamax(MetaAlias, alias=aliases.adamax):
    """Differentiable :func:`~optlayers.optim.adamax`; a :class:`~optlayers.MetaOptimizer`."""


class MetaAdadelta(MetaAlias, alias=aliases.adadelta):
    """Differentiable :func:`~optlayers.optim.adadelta`; a :class:`~optlayers.MetaOptimizer`."""


class MetaAdagrad(MetaAlias, alias=aliases.adagrad):
    """Differentiable :func:`~optlayers.optim.adagrad`; a :class:`~optlayers.MetaOptimizer`."""


class MetaRMSprop(MetaAlias, alias=aliases.rmsprop):
    """Differentiable :func:`~optlayers.optim.rmsprop`; a :class:`~optlayers.MetaOptimizer`."""


class MetaAdan(MetaAlias, alias=aliases.adan):
    """Differentiable :func:`~optlayers.optim.adan`; a :class:`~optlayers.MetaOptimizer`."""


class MetaLion(MetaAlias, alias=aliases.lion):
    """Differentiable :func:`~optlayers.optim.lion`, with constant signs; a :class:`~optlayers.MetaOptimizer`."""


class MetaLamb(MetaAlias, alias=aliases.lamb):
    """Differentiable :func:`~optlayers.optim.lamb`; a :class:`~optlayers.MetaOptimizer`."""
