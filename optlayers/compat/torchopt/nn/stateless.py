"""TorchOpt's exchange of the tensors of a module, for a while or for good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["reparameterize", "reparametrize", "swap_state"]

_MISSING: Tensor = object()  # pyright: ignore[reportAssignmentType]


def swap_state(
    module: nn.Module, named_tensors: dict[str, Tensor] | Iterable[tuple[str, Tensor]], allow_missing: bool = False
) -> dict[str, Tensor]:
    """Put tensors in the places of parameters, buffers or attributes, by their full names; return what was there.

    Args:
        allow_missing: whether a name may be new. Swapping the result back deletes it again.

    Raises:
        AttributeError: a name that is new, unless `allow_missing`.
    """
    before = {}
    for name, tensor in dict(named_tensors).items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        before[name] = getattr(owner, attribute, _MISSING) if allow_missing else getattr(owner, attribute)
        if tensor is _MISSING:
            delattr(owner, attribute)
        elif attribute in owner._parameters:
            owner._parameters[attribute] = tensor  # pyright: ignore[reportArgumentType]
        elif attribute in owner._buffers:
            owner._buffers[attribute] = tensor
        else:
            setattr(owner, attribute, tensor)
    return before


@contextmanager
def reparametrize(
    module: nn.Module, named_tensors: dict[str, Tensor] | Iterable[tuple[str, Tensor]], allow_missing: bool = False
) -> Iterator[nn.Module]:
    """The module with other tensors, inside the ``with`` block; arguments as in :func:`swap_state`."""
    before = swap_state(module, named_tensors, allow_missing)
    try:
        yield module
    finally:
        swap_state(module, before, allow_missing=True)


reparameterize = reparametrize
