"""A smooth program stated by functions of one sample, as one function of a batch of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._base import tree
from ..implicit.closure import captured, convert
from ..implicit.tracking import recording, tracked, transformed

Function = Callable[..., Any]
InDims = int | tuple[int | None, ...] | None


@dataclass(frozen=True)
class Batch:
    """The arguments of a batch of samples, apart: tensors, which of them have a batch dimension, and the way back.

    Without ``in_dims`` the batch is one sample, and `single` says so.
    """

    size: int
    single: bool
    init: Tensor  # (size, n)
    tensors: list[Tensor]
    mapped: tuple[bool, ...]  # of each tensor, whether it has the batch dimension, in front
    axes: tuple[int | None, ...]  # of each argument, as torch.vmap has it
    rebuild: Callable[[Sequence[Tensor]], tuple]
    unravel: Callable[[Tensor], Any]  # (*, n) to x


def batch_of(name: str, init: Any, args: tuple, in_dims: InDims) -> Batch:
    """Take apart the arguments of `name`; see :func:`~optlayers.minimise` for what ``in_dims`` says."""
    if not isinstance(args, tuple):
        raise TypeError(f"{name}: args is a {type(args).__name__}; expected a tuple, such as (args,).")
    _check_init(name, init)
    tensors, rebuild = tree.partition(args)
    if in_dims is None:
        flat, unravel = tree.ravel(tree.map(_detach, init))
        none = (None,) * len(args)
        return Batch(1, True, flat.unsqueeze(0), tensors, (False,) * len(tensors), none, rebuild, unravel)
    given, dims = axes(name, args, in_dims), []
    for dim, value in zip(given, args, strict=True):
        dims += [dim] * len(tree.partition(value)[0])
    _check_dims(name, tensors, dims)
    tensors = [t if dim in (None, 0) else t.movedim(dim, 0) for t, dim in zip(tensors, dims, strict=True)]
    mapped = tuple(dim is not None for dim in dims)
    flat, unravel = tree.ravel(tree.map(_detach, init), 1)
    sizes = {t.shape[0] for t, flag in zip(tensors, mapped, strict=True) if flag} or {flat.shape[0]}
    if len(sizes) > 1 or flat.shape[0] not in (1, *sizes):
        raise ValueError(
            f"{name}: batch sizes differ: init has {flat.shape[0]}, the mapped arguments have {sorted(sizes)}; "
            f"expected one size (init may have 1). in_dims is {in_dims}."
        )
    size = sizes.pop()
    front = tuple(None if dim is None else 0 for dim in given)
    return Batch(size, False, flat.expand(size, -1), tensors, mapped, front, rebuild, unravel)


class Program:
    """Objective, equalities and inequalities, stacked, on vectors; what they capture is an argument too.

    Attributes:
        tensors: what the functions depend on besides x, captured tensors first; the batch in front, of size 1 where
        shared. k, m: numbers of equalities and inequalities.
    """

    def __init__(self, name: str, functions: Sequence[Function | None], batch: Batch):
        self.name = name
        self.batch = batch
        self.functions = functions
        sample = [
            (t[0] if batch.size else torch.ones_like(t.sum(0))) if flag else t
            for t, flag in zip(batch.tensors, batch.mapped, strict=True)
        ]
        x = batch.init[0] if batch.size else batch.init.new_ones(batch.init.shape[1:])
        with torch.enable_grad() if recording() else torch.no_grad():
            parts = self._parts(x, *[_detach(t) for t in sample])
        self.k, self.m = (0 if part is None else _ravel(part)[0].shape[0] for part in parts[1:])
        self.unravels = [None if part is None else _ravel(part)[1] for part in parts[1:]]
        watched = recording() or transformed()
        suspects = watched and any(tracked(leaf) for part in parts for leaf in tree.leaves(part) if part is not None)
        self.captured = captured(self._stacked, [x.detach(), *map(_detach, sample)]) if suspects else []
        own = [t if flag else t.unsqueeze(0) for t, flag in zip(batch.tensors, batch.mapped, strict=True)]
        self.tensors = [*[t.unsqueeze(0) for t in self.captured], *own]
        self.differentiable = [t.is_floating_point() for t in self.tensors]

    def values(self, x: Tensor, tensors: Sequence[Tensor], capture: bool = True, first: int = 0) -> Tensor:
        """``(B, n)`` to ``(B, 1 + k + m)``, for `tensors` with a batch dimension of size B, or 1 where they are shared.

        Without `capture`, captured tensors are taken from where they are. With `first` 1 the objective is left out.
        """
        count = len(self.captured)

        def one(x: Tensor, *values: Tensor) -> Tensor:
            return self._stacked(x, *values, first=first)

        if not capture:
            tensors = tensors[count:]
        elif count:
            converted = convert(one, self.captured)

            def one(x: Tensor, *values: Tensor) -> Tensor:
                return converted(values[:count], x, *values[count:])

        size = x.shape[0]
        if size == 0:  # vmap refuses an empty batch
            return x.new_zeros(0, 1 + self.k + self.m - first)
        if size == 1:
            return one(x[0], *[t[0] for t in tensors]).unsqueeze(0)
        mapped = [t.shape[0] == size for t in tensors]
        tensors = [t if flag else t[0] for t, flag in zip(tensors, mapped, strict=True)]
        return torch.vmap(one, in_dims=(0, *[0 if flag else None for flag in mapped]))(x, *tensors)

    def multipliers(self, y: Tensor, z: Tensor) -> list[Any]:
        """Multipliers, shaped as the constraint functions return their values."""
        return [v if unravel is None else unravel(v) for v, unravel in zip((y, z), self.unravels, strict=True)]

    def _parts(self, x: Tensor, *tensors: Tensor, first: int = 0) -> list[Any]:
        args = self.batch.rebuild(tensors)
        x = self.batch.unravel(x)
        parts = []
        for what, fn in list(zip(("objective", "equality", "inequality"), self.functions, strict=True))[first:]:
            part = None if fn is None else fn(x, *args)
            if fn is not None:
                _check_part(self.name, what, part)
            parts.append(part)
        return parts

    def _stacked(self, x: Tensor, *tensors: Tensor, first: int = 0) -> Tensor:
        flat = [_ravel(part)[0] for part in self._parts(x, *tensors, first=first) if part is not None]
        return torch.cat([x.new_zeros(0), *flat]).to(x.dtype) if len(flat) != 1 else flat[0].to(x.dtype)


def _ravel(part: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    return tree.ravel(part)


def _detach(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def axes(name: str, args: tuple, in_dims: int | tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The batch dimension of each argument."""
    if isinstance(in_dims, int):
        in_dims = (in_dims,) * len(args)
    if not isinstance(in_dims, tuple) or len(in_dims) != len(args):
        raise ValueError(
            f"{name}: in_dims is {in_dims!r} for {len(args)} arguments; expected None, an int, or a tuple with an int "
            f"or None for each argument."
        )
    return in_dims


def _check_dims(name: str, tensors: Sequence[Tensor], dims: Sequence[int | None]) -> None:
    for tensor, dim in zip(tensors, dims, strict=True):
        if dim is not None and not -tensor.ndim <= dim < tensor.ndim:
            raise ValueError(
                f"{name}: in_dims asks for dimension {dim} of an argument of shape {tuple(tensor.shape)}; give None "
                f"for arguments that the batch shares."
            )


def _check_init(name: str, init: Any) -> None:
    tensors = tree.partition(init)[0]
    if not tensors:
        raise TypeError(
            f"{name}: init is a {type(init).__name__} without a tensor; expected a tensor or a pytree of them."
        )
    for tensor in tensors:
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name}: init has dtype {tensor.dtype}; expected torch.float32 or torch.float64.")


def _check_part(name: str, what: str, part: Any) -> None:
    tensors = tree.partition(part)[0]
    if not tensors or not all(t.is_floating_point() for t in tensors):
        raise TypeError(f"{name}: {what} returned {_kind(part)}; expected a floating tensor, from one sample.")
    if what == "objective" and (len(tensors) > 1 or tensors[0].numel() != 1):
        raise ValueError(
            f"{name}: objective returned shape {tuple(tensors[0].shape)}; expected one number for one sample. Sum "
            f"over the entries of the sample, and say with in_dims which arguments have a batch dimension."
        )


def _kind(part: Any) -> str:
    return f"a tensor of {part.dtype}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
