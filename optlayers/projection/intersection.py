"""Projection onto an intersection of sets, from the projections onto each, by Dykstra's method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._base.loop import iterate
from ._arguments import check_point


def dykstra(
    projections: Sequence[Callable[[Tensor], Tensor]],
    x: Tensor,
    *,
    sample_dims: int = 1,
    rtol: float | None = None,
    max_steps: int = 1000,
) -> Tensor:
    r"""Project onto the intersection of convex sets.

    .. math:: \arg\min_y\ \tfrac12\|y - x\|^2 \quad\text{s.t.}\quad y \in C_1 \cap \dots \cap C_k

    The steps themselves are differentiated: derivatives, also with respect to tensors that the projections close over,
    are as accurate as the steps have converged in them, and memory grows with their number. Prefer
    :func:`polyhedron`, :func:`box_section` or :func:`transport` where one of them is the set.

    Args:
        projections: functions of a tensor shaped like `x`, projecting every sample onto one of the sets.
        x: ``(*, n)`` float32 or float64.
        sample_dims: how many trailing dimensions make up a sample, 2 for matrices.
        rtol: a sample is done when a round changes the corrections by no more than this, relative to the size of its x;
            ``1.8e-12`` in float64 and ``6.4e-6`` in float32 without.
        max_steps: rounds through the sets. Under ``torch.vmap`` and ``torch.compile`` all of them are taken.

    Returns:
        Shaped like `x`; NaN in samples that did not converge, as for sets that do not meet.

    Raises:
        TypeError, ValueError: x is no tensor of these dtypes, has fewer dimensions than a sample, or there is no
            projection.

    References: Boyle and Dykstra, "A method for finding projections onto the intersection of convex sets in Hilbert
    spaces" (1986); Birgin and Raydan, "Robust stopping criteria for Dykstra's algorithm" (2005), for when to stop.
    """
    check_point("projection.dykstra", x, ("n", "m", "k", "l")[:sample_dims])
    if not projections:
        raise ValueError("projection.dykstra: projections is empty; expected at least one.")
    tolerance = torch.finfo(x.dtype).eps ** 0.75 if rtol is None else rtol
    batch_dims = x.dim() - sample_dims
    size = x.detach().unsqueeze(-1).flatten(batch_dims).abs().sum(-1)

    def step(state):
        point, corrections, _ = state
        moved, change = [], torch.zeros_like(size)
        for project, correction in zip(projections, corrections, strict=True):
            start = point + correction
            point = project(start)
            moved.append(start - point)
            change = change + (moved[-1] - correction).detach().unsqueeze(-1).flatten(batch_dims).abs().sum(-1)
        return point, moved, change

    # A tangent for every part of the state from the start, so that forward mode finds the same one at each step.
    start = (x, [torch.zeros_like(x) for _ in projections], torch.full_like(size, torch.finfo(x.dtype).max))
    found = iterate(step, start, lambda state: state[2] <= tolerance * (1 + size), max_steps)
    done = found.done.reshape(found.done.shape + (1,) * sample_dims)
    return torch.where(done, found.state[0], torch.nan)
