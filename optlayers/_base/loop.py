"""The masked, batched iteration under every iterative method: each sample stops on its own and then stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import tree
from .tree import Tree


class Iteration(NamedTuple):
    """How :func:`iterate` ended; every mask and count has the shape ``(*batch)``."""

    state: Tree
    done: Tensor  # bool: the stopping test holds
    failed: Tensor  # bool: a step was not finite; the state is the last that was
    steps: Tensor  # int64: steps taken, the failed one not counted
    history: Tree  # what `record` gave before the first step and after each one, stacked in front; () without


def iterate(
    step: Callable[[Tree], Tree],
    state: Tree,
    done: Callable[[Tree], Tensor],
    max_steps: int,
    *,
    record: Callable[[Tree], Tree] | None = None,
    watch: Callable[[Tree], Tree] = lambda state: state,
) -> Iteration:
    r"""Apply ``state <- step(state)`` to each sample of a batch until ``done(state)``, at most ``max_steps`` times.

    Samples are strangers: one that is done, or whose step comes out non-finite, keeps its state bit for bit while the
    others go on. The loop ends early once none is running, if that can be read; under ``torch.vmap`` and
    ``torch.compile``, where it cannot, it takes all ``max_steps``, masked, with the same result. Nothing is changed in
    place, so the loop can be differentiated through. A step must stay finite at a state that is done: its values are
    dropped there, but a NaN would still reach the gradient.

    Args:
        step: tree to tree of the same structure, shapes and dtypes.
        state: tree of tensors ``(*batch, ...)``. All of it must be finite: start a minimum at a large number, not inf.
        done: tree to a bool tensor ``(*batch)``, which thereby tells what the batch dimensions are.
        record: what to keep of each state, as a tree of tensors ``(*batch, ...)``.
        watch: the part of a state by which all of it is taken for finite, where the rest is large and made of it.
    """
    reached = done(state)
    failed = ~_finite(watch(state), reached.ndim)
    steps = torch.zeros_like(reached, dtype=torch.int64)
    alike = 0  # steps that all samples took, not yet in `steps`
    records = [] if record is None else [record(state)]
    together = reached.numel() > 0 and surely_none(
        reached | failed
    )  # so far all samples do the same, and no mask is needed
    for _ in range(max_steps):
        if not together:
            running = ~(reached | failed)
            if surely_none(running):
                break
        proposal = step(state)
        finite, arrived = _finite(watch(proposal), reached.ndim), done(proposal)
        together = together and surely_none(~finite | arrived)
        if together:
            state, alike = proposal, alike + 1
        else:
            moved = ~(reached | failed) & finite
            failed = failed | ~(reached | finite)
            reached = reached | (moved & arrived)
            state = choose(moved, proposal, state)
            steps = steps + moved
        if record is not None:
            records.append(record(state))
    history = tree.map(lambda *values: torch.stack(values), *records) if records else ()
    return Iteration(state, reached & ~failed, failed, steps + alike, history)


def choose(mask: Tensor, new: Tree, old: Tree) -> Tree:
    """The samples of `new` where the mask ``(*batch)`` holds, of `old` elsewhere."""

    masks = {mask.ndim: mask}  # by number of dimensions

    def pick(a: Tensor, b: Tensor) -> Tensor:
        if a is b:
            return a
        if a.ndim not in masks:
            masks[a.ndim] = mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim))
        return torch.where(masks[a.ndim], a, b)

    if isinstance(old, tuple) and all(type(leaf) is Tensor for leaf in old):  # most states: a fraction of the overhead
        picked = [pick(a, b) for a, b in zip(new, old, strict=True)]
        return type(old)(*picked) if hasattr(old, "_fields") else tuple(picked)
    return tree.map(pick, new, old)


def free_to_read(tensor: Tensor) -> bool:
    """Whether a look at the values waits for nothing: not on a GPU, whose work up to here would have to be done."""
    return tensor.device.type == "cpu"


def can_read(tensor: Tensor) -> bool:
    """Whether Python may look at the values: not under ``torch.compile`` or vmap, nor on meta and fake tensors."""
    return _any(tensor) is not None


def surely_none(mask: Tensor) -> bool:
    """True only where the mask can be read and holds nowhere: the one question that may end a loop early."""
    return _any(mask) is False


def _any(tensor: Tensor) -> bool | None:
    """Whether any entry is true; None if that cannot be read."""
    if torch.compiler.is_compiling():
        return None
    try:
        return bool(tensor.any())
    except RuntimeError:  # what vmap, meta and fake tensors raise on data-dependent control flow
        return None


@torch.no_grad()
def _finite(state: Tree, batch_ndim: int) -> Tensor:
    """(*batch): every entry of the sample, over all leaves, is finite."""
    flags = []
    for leaf in [state] if isinstance(state, Tensor) else tree.leaves(state):
        if leaf.is_floating_point():
            size = leaf.abs()
            if leaf.ndim > batch_ndim:
                # Comparing the largest entry, which is NaN if any is, takes a third of the time of isfinite.
                flat = size.flatten(batch_ndim)
                size = flat.amax(-1) if flat.shape[-1] else flat.sum(-1)
            flags.append(size < torch.inf)
    return flags[0] if len(flags) == 1 else torch.stack(flags).all(0)
