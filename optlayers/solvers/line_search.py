"""Line searches, for each sample of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.loop import iterate

HALVINGS = 30


class _Trial(NamedTuple):
    t: Tensor  # (*batch, 1)
    accepted: Tensor  # (*batch) bool


def backtrack(accept: Callable[[Tensor], Tensor], like: Tensor, start: Tensor | float = 1.0) -> Tensor:
    """The first of ``start, start / 2, start / 4 ...`` that is accepted, or the last of them; ``(*batch, 1)``.

    Args:
        accept: steps ``(*batch, 1)`` to bool ``(*batch, 1)``; a comparison with NaN, outside of a domain, is no.
        like: a tensor ``(*batch, 1)``.
    """
    t = torch.zeros_like(like) + start
    end = iterate(
        lambda trial: _Trial(0.5 * trial.t, accept(0.5 * trial.t).squeeze(-1)),
        _Trial(t, accept(t).squeeze(-1)),
        lambda trial: trial.accepted,
        HALVINGS,
    )
    return end.state.t
