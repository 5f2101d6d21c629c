"""`GradientTransformation`: what becomes of gradients before they are added to parameters; and combinations of it."""

# torch gives its foreach and fused kernels no public name.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._base import tree
from .._base.tree import Tree
from . import lists
from .lists import Tensors

if TYPE_CHECKING:
    from .moment_rule import MomentRule

State = Any  # a nesting of tuples, dicts, lists and tensors, in which a list has one entry for each parameter
Init = Callable[[Tensors], State]
Update = Callable[[Tensors, State, Any, bool], tuple[Tensors, State]]
Step = Callable[[Tensors, Tensors, State], State | None]


class GradientTransformation:
    """A pair of functions ``(init, update)`` that turns gradients into updates, with everything that moves in a state.

    .. code-block:: text

        state = transformation.init(params)
        updates, state = transformation.update(grads, state, params)
        params = apply_updates(params, updates)

    Parameters, gradients and updates are pytrees of floating tensors of one structure. Both functions are pure and
    differentiable in every tensor that enters them at any order, and run under :mod:`torch.func` and
    :func:`torch.compile`. A gradient None leaves its parameter and the state of it alone.

    A state is a nesting of tuples, dicts, lists and tensors, which ``torch.load(weights_only=True)`` reads.

    Args:
        init: ``init(params) -> state``, where `params` is a flat *list* of tensors. A list in the state must have one
            entry for each parameter; what all share goes into tensors, tuples and dicts.
        update: ``update(updates, state, params, overwrite) -> (updates, state)`` on flat lists; `params` may be None,
            `overwrite` allows it to change the tensors of the state in place.
        step: a faster, primal-only ``step(params, grads, state) -> state`` that changes parameters and state in
            place, for the torch-style classes; None where there is none, and it returns None where it cannot.
        rule: what a kernel needs to know, for ``optim.assembly.optimizer``.
    """

    def __init__(self, init: Init, update: Update, step: Step | None = None, rule: MomentRule | None = None):
        self.init_list = init
        self.update_list = update
        self.step_list = step
        self.rule = rule

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """Unpacks as ``init, update = transformation``."""
        return iter((self.init, self.update))

    def init(self, params: Tree) -> State:
        """The state before the first update."""
        return self.init_list(tree.leaves(params))

    def update(
        self, updates: Tree, state: State, params: Tree | None = None, *, inplace: bool = False
    ) -> tuple[Tree, State]:
        """Transform `updates`; return them, in their structure, with the next state.

        Args:
            updates: pytree like the parameters; None entries are skipped.
            state: what :meth:`init` or the last update returned.
            params: needed by weight decay and by trust ratios only.
            inplace: the state may be overwritten, which saves memory and must not be differentiated.

        Raises:
            ValueError: `params` and `updates` do not fit, or `params` is needed and missing.
        """
        grads, structure = tree.flatten(updates)
        at = None if params is None else tree.leaves(params)
        if at is not None:
            _check_alike(grads, at)
        if all(grad is not None for grad in grads):
            new, state = self.update_list(grads, state, at, inplace)
            return tree.unflatten(new, structure), state
        given = [place for place, grad in enumerate(grads) if grad is not None]
        some = None if at is None else [at[place] for place in given]
        new, part = self.update_list([grads[place] for place in given], pick(state, given), some, inplace)
        for place, update in zip(given, new, strict=True):
            grads[place] = update
        return tree.unflatten(grads, structure), put(state, part, given)


def pick(state: State, places: list[int]) -> State:
    """The state of some of the parameters."""
    if isinstance(state, list):
        return [state[place] for place in places]
    return _inside(lambda inner: pick(inner, places), state)


def put(state: State, part: State, places: list[int]) -> State:
    """The state with `part` in place of what :func:`pick` returned."""
    if isinstance(state, list):
        merged = list(state)
        for place, new in zip(places, part, strict=True):
            merged[place] = new
        return merged
    return _inside(lambda inner, new: put(inner, new, places), state, part) if _nested(state) else part


def _nested(state: State) -> bool:
    return isinstance(state, (tuple, dict))


def _inside(fn: Callable[..., State], state: State, *rest: State) -> State:
    if isinstance(state, dict):
        return {key: fn(value, *(other[key] for other in rest)) for key, value in state.items()}
    if isinstance(state, tuple):
        inner = [fn(*row) for row in zip(state, *rest, strict=True)]
        return type(state)(*inner) if hasattr(state, "_fields") else tuple(inner)
    return state


def _check_alike(grads: list[Any], params: list[Any]) -> None:
    if len(grads) != len(params):
        raise ValueError(f"update: updates hold {len(grads)} tensors but params {len(params)}; expected one each.")
    for place, (grad, param) in enumerate(zip(grads, params, strict=True)):
        if grad is not None and grad.shape != param.shape:
            raise ValueError(
                f"update: tensor {place} of updates has shape {tuple(grad.shape)} but that of params "
                f"{tuple(param.shape)}; expected the same."
            )


def stateless(fn: Callable[[Tensors, Any], Tensors]) -> GradientTransformation:
    """The transformation ``updates <- fn(updates, params)``."""
    return GradientTransformation(lambda params: (), lambda updates, state, params, _: (fn(updates, params), state))


def identity() -> GradientTransformation:
    """Leave the updates as they are."""
    return stateless(lambda updates, params: updates)


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """One transformation after the other; the state is the tuple of theirs."""

    def init(params: Tensors) -> State:
        return tuple(part.init_list(params) for part in transformations)

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        states = []
        for part, inner in zip(transformations, state, strict=True):
            updates, inner = part.update_list(updates, inner, params, overwrite)
            states.append(inner)
        return updates, tuple(states)

    return GradientTransformation(init, update)


def masked(inner: GradientTransformation, mask: Tree | Callable[[Tensors], Tree]) -> GradientTransformation:
    """Apply `inner` to some parameters only; the updates of the others pass unchanged.

    Args:
        mask: a pytree of bools with as many leaves as the parameters; or a function from the flat list of parameters to
            one, such as ``lambda params: [p.ndim > 1 for p in params]``.

    Raises:
        ValueError: a mask with another number of leaves.
    """

    def places(params: Tensors) -> list[int]:
        flags = tree.leaves(mask(params) if callable(mask) else mask)
        if len(flags) != len(params):
            raise ValueError(f"masked: mask has {len(flags)} leaves; expected one for each of {len(params)} tensors.")
        return [place for place, flag in enumerate(flags) if flag]

    def init(params: Tensors) -> State:
        kept = places(params)
        part = inner.init_list([params[place] for place in kept])
        return _spread(part, kept, len(params))

    def update(updates: Tensors, state: State, params: Tensors | None, overwrite: bool) -> tuple[Tensors, State]:
        kept = places(updates if params is None else params)
        at = None if params is None else [params[place] for place in kept]
        new, part = inner.update_list([updates[place] for place in kept], pick(state, kept), at, overwrite)
        updates = list(updates)
        for place, value in zip(kept, new, strict=True):
            updates[place] = value
        return updates, put(state, part, kept)

    return GradientTransformation(init, update)


def _spread(state: State, places: list[int], size: int) -> State:
    """The state of all parameters, an empty tuple for those that have none, given that of some."""
    if isinstance(state, list):
        return put([()] * size, state, places)
    return _inside(lambda inner: _spread(inner, places, size), state)


def apply_updates(params: Tree, updates: Tree, *, inplace: bool = False) -> Tree:
    """``params + updates``, leaf by leaf; an update of None leaves its parameter alone.

    Args:
        params, updates: pytrees of one structure.
        inplace: change the parameters themselves, unrecorded, and return them.
    """
    leaves, structure = tree.flatten(params)
    steps = tree.leaves(updates)
    _check_alike(steps, leaves)
    moving = [place for place, step in enumerate(steps) if step is not None]
    at, by = [leaves[place] for place in moving], [steps[place] for place in moving]
    if inplace:
        add_in_place(at, by)
        return params
    for place, value in zip(moving, lists.add(at, by), strict=True):
        leaves[place] = value
    return tree.unflatten(leaves, structure)


@torch.no_grad()
def add_in_place(params: list[Tensor], updates: list[Tensor]) -> None:
    """``params += updates``, unrecorded."""
    if lists.together(params, least=1):
        torch._foreach_add_(params, updates)
    else:
        for param, update in zip(params, updates, strict=True):
            param.add_(update)
