"""TorchOpt's `Optimizer`: ordinary training of tensors by any transformation, without a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .... import optim
from ...._base import tree
from ..base import UninitializedState, bare


class Optimizer:
    """Update tensors in place by their ``.grad``.

    Unlike :class:`optlayers.optim.Adam` and its like it is no :class:`torch.optim.Optimizer`; its learning rate may be
    a schedule.

    Args:
        params: tensors, or a pytree of them.
        impl: what turns gradients into updates.

    Raises:
        TypeError: `impl` is no transformation.
    """

    def __init__(self, params: Iterable[Tensor], impl: optim.GradientTransformation):
        self.impl = impl
        self._transformation = bare(type(self).__name__, impl)
        self.param_groups: list[tuple[Tensor, ...]] = []
        self.state_groups: list[Any] = []
        self.add_param_group(params)

    def add_param_group(self, params: Any) -> None:
        """Update further tensors, with a state of their own."""
        held = params if isinstance(params, (list, tuple, dict)) else tuple(params)
        self.param_groups.append(tuple(tree.leaves(held)))
        self.state_groups.append(UninitializedState())

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Make all gradients zero, or None."""
        for params in self.param_groups:
            for param in params:
                if param.grad is not None:
                    param.grad = None if set_to_none else torch.zeros_like(param.grad)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update; `closure` computes the loss again, with gradients, and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, params in enumerate(self.param_groups):
            state = self.state_groups[index]
            if isinstance(state, UninitializedState):
                state = self._transformation.init_list(list(params))
            self.state_groups[index] = self._step(list(params), [param.grad for param in params], state)
        return loss

    def _step(self, params: list[Tensor], grads: list[Tensor | None], state: Any) -> Any:
        given = [grad for grad in grads if grad is not None]
        if not given:
            return state
        fast = self._transformation.step_list
        new = fast(params, given, state) if fast is not None and len(given) == len(params) else None
        if new is not None:
            return new
        updates, state = self._transformation.update(grads, state, params, inplace=True)
        optim.apply_updates(params, updates, inplace=True)
        return state

    def state_dict(self) -> tuple[Any, ...]:
        """The states, one for each group, by reference."""
        return tuple(self.state_groups)

    def load_state_dict(self, state_dict: Sequence[Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            ValueError: another number of groups.
        """
        if len(state_dict) != len(self.param_groups):
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: state_dict has {len(state_dict)} groups; expected "
                f"{len(self.param_groups)}."
            )
        self.state_groups = list(state_dict)
