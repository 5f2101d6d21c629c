"""Take, keep and give back the tensors of modules and optimizers, with or without their history."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .._base import tree
from .meta import MetaOptimizer
from .slots import buffer_slots, get_parameter, parameter_slots, put_parameter

By = Literal["reference", "copy", "deepcopy"]
Device = torch.device | str | int | None
Module = TypeVar("Module", bound=nn.Module)


class ModuleState(NamedTuple):
    """The tensors of a module by their full names, as :func:`torch.func.functional_call` takes them."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]


def extract_state_dict(
    target: nn.Module | MetaOptimizer | torch.optim.Optimizer,
    *,
    by: By = "reference",
    with_buffers: bool = True,
    detach_buffers: bool = False,
    device: Device = None,
) -> Any:
    """The state of a module or an optimizer, for :func:`recover_state_dict`.

    Args:
        target: the module or optimizer.
        by: ``"reference"`` the very tensors; ``"copy"`` clones, through which derivatives flow; ``"deepcopy"`` clones
            without history. Tensors that were one stay one.
        with_buffers: whether buffers of a module are included.
        detach_buffers: whether they are clones without history in any case.
        device: where the tensors are moved to; None leaves them.

    Returns:
        :class:`~optlayers.optim.ModuleState` of a module; of an optimizer what its ``state_dict`` returns.

    Raises:
        TypeError: another target.
        ValueError: another `by`.
    """
    take = _taker("extract_state_dict", by, device)
    if isinstance(target, nn.Module):
        keep = _taker("extract_state_dict", "deepcopy", device) if detach_buffers else take
        params = {name: take(get_parameter(slot)) for name, slot in parameter_slots(target)}
        buffers = {name: keep(owner._buffers[key]) for name, (owner, key) in buffer_slots(target)}
        return ModuleState(params, buffers if with_buffers else {})
    if isinstance(target, (MetaOptimizer, torch.optim.Optimizer)):
        return tree.map(lambda leaf: take(leaf) if isinstance(leaf, Tensor) else leaf, target.state_dict())
    raise TypeError(_unknown("extract_state_dict", target))


def recover_state_dict(target: nn.Module | MetaOptimizer | torch.optim.Optimizer, state: Any) -> None:
    """Give a module or an optimizer the state that :func:`extract_state_dict` took: these tensors, with their history.

    Raises:
        TypeError: another target.
        ValueError: a state whose names are not those of the module.
    """
    if isinstance(target, (MetaOptimizer, torch.optim.Optimizer)):
        target.load_state_dict(state)
    elif isinstance(target, nn.Module):
        params, buffers = dict(parameter_slots(target)), dict(buffer_slots(target))
        if params.keys() != state.params.keys() or not state.buffers.keys() <= buffers.keys():
            wrong = sorted((params.keys() ^ state.params.keys()) | (state.buffers.keys() - buffers.keys()))
            raise ValueError(f"recover_state_dict: {wrong} are not in both the module and the state.")
        for name, tensor in state.params.items():
            put_parameter(params[name], tensor)
        for name, tensor in state.buffers.items():
            owner, key = buffers[name]
            owner._buffers[key] = tensor
    else:
        raise TypeError(_unknown("recover_state_dict", target))


def stop_gradient(target: Any) -> Any:
    """Cut the history of all tensors of `target` in place, and return it.

    Args:
        target: a module, whose parameters become ordinary ones again; a :class:`~optlayers.MetaOptimizer`, whose states
            are meant; or a pytree of tensors, such as a :class:`~optlayers.optim.ModuleState`.

    Raises:
        ValueError: a tensor of a tree that is a view with a history, which torch cannot detach in place.
    """
    if isinstance(target, nn.Module):
        return module_detach_(target)
    if isinstance(target, MetaOptimizer):
        target.stop_gradient()
        return target
    for leaf in tree.leaves(target):
        if isinstance(leaf, Tensor) and not leaf.is_leaf:
            if leaf._is_view():
                raise ValueError(
                    "stop_gradient: a tensor is a view with a history, which cannot be detached in place. Take the "
                    "state by='deepcopy'."
                )
            leaf.detach_().requires_grad_()
    return target


def module_detach_(module: Module) -> Module:
    """Cut the history of all parameters and buffers of a module, in place, and return it; tied ones stay tied.

    Its parameters are :class:`torch.nn.Parameter` again, with the same memory.
    """
    fresh: dict[int, Tensor] = {}
    for _, slot in parameter_slots(module):
        old = get_parameter(slot)
        if not isinstance(old, nn.Parameter):
            put_parameter(slot, fresh.setdefault(id(old), nn.Parameter(old.detach(), old.requires_grad)))
    for _, (owner, name) in buffer_slots(module):
        buffer = owner._buffers[name]
        if buffer is not None and buffer.requires_grad:
            owner._buffers[name] = fresh.setdefault(id(buffer), buffer.detach())
    return module


def module_clone(
    module: Module, *, by: By = "reference", detach_buffers: bool = False, device: Device = None
) -> Module:
    """A module of the same structure; `by`, `detach_buffers` and `device` as in :func:`extract_state_dict`.

    Tensors that were one stay one. What the module holds besides parameters and buffers is copied.

    Raises:
        ValueError: another `by`.
    """
    take = _taker("module_clone", by, device)
    keep = _taker("module_clone", "deepcopy", device) if detach_buffers else take
    # copy.deepcopy takes what it finds here for copied already, also where tensors have a history.
    taken: dict[int, Any] = {}
    for _, slot in parameter_slots(module):
        parameter = get_parameter(slot)
        taken[id(parameter)] = take(parameter)
    for _, (owner, name) in buffer_slots(module):
        buffer = owner._buffers[name]
        taken[id(buffer)] = keep(buffer)
    return copy.deepcopy(module, taken)


def _taker(function: str, by: str, device: Device) -> Callable[[Any], Tensor]:
    """Copies a tensor as `by` says; the same tensor once only."""
    if by not in ("reference", "copy", "deepcopy"):
        raise ValueError(f"{function}: by is {by!r}; expected 'reference', 'copy' or 'deepcopy'.")
    done: dict[int, Tensor] = {}

    def take(tensor: Tensor) -> Tensor:
        if id(tensor) not in done:
            done[id(tensor)] = _take(tensor, by, device)
        return done[id(tensor)]

    return take


def _take(tensor: Tensor, by: str, device: Device) -> Tensor:
    if by == "reference":
        return tensor if device is None else tensor.to(device)
    if by == "copy":
        return tensor.clone() if device is None else tensor.clone().to(device)
    copied = tensor.detach().clone() if device is None else tensor.detach().clone().to(device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def _unknown(function: str, target: object) -> str:
    return f"{function}: target is a {type(target).__name__}; expected an nn.Module, MetaOptimizer or torch Optimizer."
