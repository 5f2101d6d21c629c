"""TorchOpt's handling of states: its call signatures on the functions of :mod:`optlayers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ... import optim
from ..._base import tree
from ...optim import ModuleState
from ...optim.state import By, Device

__all__ = [
    "ModuleState", "extract_state_dict", "module_clone", "module_detach_", "recover_state_dict", "stop_gradient",
]  # fmt: skip

_MODES: dict[str, By] = {
    "reference": "reference", "ref": "reference", "copy": "copy", "clone": "copy", "deepcopy": "deepcopy",
    "deepclone": "deepcopy",
}  # fmt: skip


def extract_state_dict(
    target: nn.Module | optim.MetaOptimizer,
    *,
    by: str = "reference",
    device: Device = None,
    with_buffers: bool = True,
    detach_buffers: bool = False,
    enable_visual: bool = False,
    visual_prefix: str = "",
) -> Any:
    """:func:`optlayers.extract_state_dict`; `by` may be "ref", "clone" or "deepclone", too.

    Raises:
        ValueError: `enable_visual`: graphs are not drawn here.
    """
    if enable_visual:
        raise ValueError("extract_state_dict: enable_visual is True, but graphs are not drawn here; use torchviz.")
    mode = _mode("extract_state_dict", by)
    return optim.extract_state_dict(
        target, by=mode, with_buffers=with_buffers, detach_buffers=detach_buffers, device=device
    )


def recover_state_dict(target: nn.Module | optim.MetaOptimizer, state: Any) -> None:
    """:func:`optlayers.recover_state_dict`."""
    optim.recover_state_dict(target, state)


def stop_gradient(target: Any) -> None:
    """:func:`optlayers.stop_gradient`, which returns nothing here."""
    optim.stop_gradient(target)


def module_clone(target: Any, *, by: str = "reference", detach_buffers: bool = False, device: Device = None) -> Any:
    """:func:`optlayers.module_clone`; of a pytree, its tensors taken in the same way.

    Raises:
        ValueError: another `by`.
    """
    mode = _mode("module_clone", by)
    if isinstance(target, nn.Module):
        return optim.module_clone(target, by=mode, detach_buffers=detach_buffers, device=device)
    take: dict[By, Callable[[Tensor], Tensor]] = {
        "reference": lambda t: t,
        "copy": torch.clone,
        "deepcopy": lambda t: t.detach().clone().requires_grad_(t.requires_grad),
    }
    return tree.map(lambda leaf: take[mode](leaf).to(device) if isinstance(leaf, Tensor) else leaf, target)


def module_detach_(target: Any) -> Any:
    """:func:`optlayers.stop_gradient`: cut the history in place, and return `target`."""
    return optim.stop_gradient(target)


def _mode(function: str, by: str) -> By:
    if by not in _MODES:
        raise ValueError(f"{function}: by is {by!r}; expected one of {sorted(_MODES)}.")
    return _MODES[by]
