"""The step that the optimizers with moments share, in torch: what the kernels compute, and what has all derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .._native.update_ops import Moments, Second
from . import lists
from .hyper import is_zero
from .lists import Scalar, Tensors
from .transformation import State

Entry = tuple[Tensors, Tensors | None, Tensors | None, Tensors | None, Tensors | None]  # g, p, m, v, largest v
Next = tuple[Tensors, Tensors | None, Tensors | None, Tensors | None]  # u, m, v, largest v


class MomentRule(NamedTuple):
    """What a transformation tells of itself, so that it can be done by a kernel, together with its neighbours.

    Attributes:
        keys: under which m, v and the largest v are in its state; None where there is none.
        numbers: ``numbers(state) -> (moments, shared)``, those of the next step, and the new entries that all
            parameters share.
    """

    keys: tuple[str | None, str | None, str | None]
    numbers: Callable[[State], tuple[Moments, State]]

    def moments_of(self, state: State) -> tuple[Tensors | None, Tensors | None, Tensors | None]:
        """m, v and the largest v, in lists."""
        m, v, top = (None if key is None else state[key] for key in self.keys)
        return m, v, top

    def renewed(self, state: State, shared: State, moments: tuple[Tensors | None, ...]) -> State:
        """The next state."""
        new = {key: value for key, value in zip(self.keys, moments, strict=True) if key is not None}
        return {**state, **shared, **new}


def moment_step(c: Moments, entry: Entry, overwrite: bool = False) -> Next:
    """The step (OPT-1) of lists of tensors; `overwrite` allows it to change the moments in place."""
    g, p, m, v, top = entry
    h = _scaled(g, c.gradient)
    if p is not None and not is_zero(c.decay):
        h = lists.add(h, p, c.decay)
    if m is not None:
        m = _kept(m, h, c.keep1, c.take1, overwrite)
    size = None
    if c.second == Second.MAXIMUM:
        assert v is not None
        v = lists.maximum(lists.scale(v, c.keep2), lists.shift(lists.absolute(h), c.take2))
        size = lists.at_least_smallest(v)
    elif v is not None:
        v = _kept_square(v, h, c.keep2, c.take2, overwrite)
        spread = v
        if c.second == Second.LARGEST:
            assert top is not None
            spread = top = lists.maximum(top, v)
        elif c.second == Second.CENTERED:
            assert m is not None
            spread = lists.add(v, lists.multiply(m, m), -1.0)
        if not is_zero(c.sigma):
            size = lists.root(lists.shift(spread, c.rho), overwrite)
    u = _mean(c, m, h)
    if size is not None:
        u = lists.divide(u, lists.shift(_scaled(size, c.sigma, overwrite), c.epsilon, overwrite), overwrite)
    if p is not None and not is_zero(c.shrink):
        u = lists.add(u, p, c.shrink)
    return u, m, v, top


def _mean(c: Moments, m: Tensors | None, h: Tensors) -> Tensors:
    """``alpha m + beta h``"""
    if m is None or is_zero(c.alpha):
        return _scaled(h, c.beta)
    mean = _scaled(m, c.alpha)
    return mean if is_zero(c.beta) else lists.add(mean, h, c.beta)


def _scaled(x: Tensors, c: Scalar, overwrite: bool = False) -> Tensors:
    return x if not isinstance(c, Tensor) and c == 1 else lists.scale(x, c, overwrite)


def _kept(x: Tensors, y: Tensors, keep: Scalar, take: Scalar | None, overwrite: bool) -> Tensors:
    if take is None:
        return lists.average(x, y, keep, overwrite)
    return lists.decay(x, y, keep, take, overwrite)


def _kept_square(x: Tensors, y: Tensors, keep: Scalar, take: Scalar | None, overwrite: bool) -> Tensors:
    if take is None:
        return lists.average_square(x, y, keep, overwrite)
    return lists.decay(x, lists.multiply(y, y), keep, take, overwrite)
