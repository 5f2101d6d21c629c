"""Where the parameters of a module live, and putting tensors there that are no `nn.Parameter`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

Slot = tuple[nn.Module, str]  # the module that owns the parameter, and its name there


def parameter_slots(module: nn.Module) -> Iterator[tuple[str, Slot]]:
    """Every place of a parameter, with its full name; a tied parameter has several."""
    for prefix, owner in module.named_modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                yield (f"{prefix}.{name}" if prefix else name), (owner, name)


def buffer_slots(module: nn.Module) -> Iterator[tuple[str, Slot]]:
    """Every place of a buffer, with its full name."""
    for prefix, owner in module.named_modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                yield (f"{prefix}.{name}" if prefix else name), (owner, name)


def get_parameter(slot: Slot) -> Tensor:
    """The tensor in a slot."""
    owner, name = slot
    parameter = owner._parameters[name]
    assert parameter is not None
    return parameter


def put_parameter(slot: Slot, tensor: Tensor) -> None:
    """Make `tensor`, which may have a history, the parameter."""
    owner, name = slot
    owner._parameters[name] = tensor  # pyright: ignore[reportArgumentType] - setattr takes only an nn.Parameter
    if isinstance(owner, nn.RNNBase):  # keeps its weights in a second list, which setattr would update
        owner._flat_weights[owner._flat_weights_names.index(name)] = tensor
