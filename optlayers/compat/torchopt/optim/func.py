"""TorchOpt's `FuncOptimizer`: a transformation together with its state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .... import optim
from ...._base import tree
from ...._base.tree import Tree
from ..base import UninitializedState, bare


class FuncOptimizer:
    """Steps of parameters that are a pytree: ``params = optimizer.step(loss, params)``.

    Args:
        impl: what turns gradients into updates.
        inplace: whether the parameters themselves are changed. Such steps cannot be differentiated, and keep no graph.

    Raises:
        TypeError: `impl` is no transformation.
    """

    def __init__(self, impl: optim.GradientTransformation, *, inplace: bool = False):
        self.impl = impl
        self._transformation = bare("FuncOptimizer", impl)
        self.inplace = inplace
        self.optim_state: Any = UninitializedState()

    def step(self, loss: Tensor, params: Tree, inplace: bool | None = None) -> Tree:
        """The parameters after one step down `loss`, a scalar; `inplace` overrides the constructor's."""
        inplace = self.inplace if inplace is None else inplace
        leaves, structure = tree.flatten(params)
        if isinstance(self.optim_state, UninitializedState):
            self.optim_state = self._transformation.init(leaves)
        grads = torch.autograd.grad(loss, leaves, create_graph=not inplace, retain_graph=True, allow_unused=True)
        updates, self.optim_state = self._transformation.update(
            list(grads), self.optim_state, leaves, inplace=inplace
        )  # fmt: skip
        return tree.unflatten(optim.apply_updates(leaves, updates, inplace=inplace), structure)

    def state_dict(self) -> Any:
        """The state, by reference."""
        return self.optim_state

    def load_state_dict(self, state_dict: Any) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.optim_state = state_dict
