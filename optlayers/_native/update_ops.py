"""Optimizer steps of whole lists of tensors by kernels, one call for all; `optim/moment_rule.py` is their twin."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor, strided
from torch.cuda import current_stream
from torch.nn import Parameter

from . import available, cuda
from .extension import of_dtype
from .ops import _direct, _unwatched, call

Column = Sequence[Tensor | None] | None  # one array of every tensor; None is zero, or not wanted


class Second(IntEnum):
    """The kinds of second moment in ``csrc/api.h``."""

    NONE = 0
    SQUARE = 1
    LARGEST = 2
    CENTERED = 3
    MAXIMUM = 4


class Moments(NamedTuple):
    r"""The numbers of a step of one of the optimizers that rescale by moments (OPT-1).

    .. math::
        h &= \mathrm{gradient}\, g + \mathrm{decay}\, p \\
        m &\leftarrow \mathrm{keep1}\, m + \mathrm{take1}\, h \\
        v &\leftarrow \mathrm{keep2}\, v + \mathrm{take2}\, h^2 \\
        u &= \frac{\mathrm{alpha}\, m + \mathrm{beta}\, h}{\mathrm{sigma} \sqrt{w + \mathrm{rho}} + \mathrm{epsilon}}
            + \mathrm{shrink}\, p

    `second` says what ``w`` is. Numbers, or 0-d tensors in plain torch; `take1` and `take2` of None are ``1 - keep``.
    With a `sigma` of 0 there is no division, and `epsilon` has to be 1.
    """

    second: Second
    keep1: Any = 0.0
    keep2: Any = 0.0
    take1: Any = None
    take2: Any = None
    alpha: Any = 1.0
    beta: Any = 0.0
    sigma: Any = 1.0
    rho: Any = 0.0
    epsilon: Any = 0.0
    gradient: Any = 1.0
    decay: Any = 0.0
    shrink: Any = 0.0

    def constant(self) -> bool:
        """Whether all of them are numbers, as a kernel needs."""
        return not any([isinstance(value, Tensor) for value in self])

    def weights(self) -> tuple[float, float]:
        """`take1` and `take2` as numbers."""
        take1 = 1 - self.keep1 if self.take1 is None else self.take1
        return take1, 1 - self.keep2 if self.take2 is None else self.take2

    def ordered(self) -> tuple[float, ...]:
        """The numbers as the kernels take them."""
        take1, take2 = self.weights()
        return (
            self.gradient, self.decay, self.keep1, take1, self.keep2, take2, self.alpha, self.beta, self.sigma,
            self.rho, self.epsilon, self.shrink,
        )  # fmt: skip


def reachable(tensors: Sequence[Tensor | None]) -> bool:
    """Whether the kernels may read these tensors: plain ones, while nothing watches that has to see every operation."""
    given = [tensor for tensor in tensors if tensor is not None]
    if not given[0].is_cuda:
        return _direct(*given)
    alike = [type(t) in (Tensor, Parameter) and t.device == given[0].device and t.layout == strided for t in given]
    return _unwatched() and all(alike) and available(given[0].device)


def step(numbers: Moments, entry: Sequence[Column], out: Sequence[Column], apply: bool = False) -> None:
    """Write update and next moments of ``entry = (g, p, m, v, top)`` to ``out = (u, m, v, top)``.

    All are contiguous, on one device and of one dtype. With `apply` the first of `out` receives ``p + u``. An array may
    be in both.
    """
    _call("moments_step", numbers, (entry, (), out), apply)


def pull(numbers: Moments, entry: Sequence[Column], change: Sequence[Column], out: Sequence[Column]) -> None:
    """From cotangents of ``(u, m, v, top)`` those of ``(g, p, m, v, top)``."""
    _call("moments_pull", numbers, (entry, change, out))


def push(numbers: Moments, entry: Sequence[Column], change: Sequence[Column], out: Sequence[Column]) -> None:
    """From tangents of ``(g, p, m, v, top)`` those of ``(u, m, v, top)``."""
    _call("moments_push", numbers, (entry, change, out))


def packed(tensor: Tensor | None) -> Tensor | None:
    """`tensor` in memory as the kernels read it."""
    if tensor is None or (tensor.is_contiguous() and not tensor.is_neg()):
        return tensor
    return tensor.resolve_neg().contiguous()


def _call(kernel: str, numbers: Moments, groups: tuple[Sequence[Column], ...], *settings: bool) -> None:
    first = _full(groups[0][0] or ())
    count = len(first)
    columns: list[list[int]] = [[tensor.numel() for tensor in first]]
    nothing = [0] * count
    for group in groups:
        for place in range(5):
            column = group[place] if place < len(group) else None
            columns.append(nothing if column is None else [0 if t is None else t.data_ptr() for t in column])
    table = array("q", chain.from_iterable(zip(*columns, strict=True)))
    values = array("d", numbers.ordered())
    addresses = values.buffer_info()[0], count, table.buffer_info()[0]
    device, dtype = first[0].device, first[0].dtype
    if device.type == "cpu":
        call(kernel, dtype, int(numbers.second), *addresses, *settings)
        return
    stream = current_stream(device).cuda_stream
    of_dtype(cuda()[0], kernel, dtype)(int(numbers.second), *addresses, *settings, device.index or 0, stream)


def _full(column: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in column if tensor is not None]
