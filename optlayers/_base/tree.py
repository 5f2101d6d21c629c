"""Vectors that are pytrees: structure, inner product, norm, and the flat view, per sample of a batch.

A tree is a tensor or any nesting of dicts, lists and tuples of them. With ``batch_ndim`` the
first so many dimensions of *every* leaf index independent samples and the rest, over all leaves, make up one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

Tree = Any  # a nesting has no static type; the name says what is meant


def flatten(tree: Tree) -> tuple[list[Any], _pytree.TreeSpec]:
    """The leaves in order, and the structure that :func:`unflatten` puts them back into."""
    return _pytree.tree_flatten(tree)


def unflatten(leaves: Any, structure: _pytree.TreeSpec) -> Tree:
    """The tree of this structure with these leaves: the inverse of :func:`flatten`."""
    return _pytree.tree_unflatten(leaves, structure)


def leaves(tree: Tree) -> list[Any]:
    """The leaves in order."""
    return _pytree.tree_leaves(tree)


def map(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """``fn`` over corresponding leaves; trees of another structure raise ``ValueError``."""
    return _pytree.tree_map(fn, tree, *rest)


def dot(a: Tree, b: Tree, batch_ndim: int = 0) -> Tensor:
    """Inner product of two trees, of shape ``(*batch)``: the sum over all leaves and all but the batch dimensions."""
    return (ravel(a, batch_ndim)[0] * ravel(b, batch_ndim)[0]).sum(-1)


def norm(a: Tree, batch_ndim: int = 0) -> Tensor:
    """Euclidean norm of a tree, of shape ``(*batch)``; its squares neither overflow nor underflow."""
    flat, _ = ravel(a, batch_ndim)
    if flat.shape[-1] == 0:
        return flat.sum(-1)
    bounds = torch.finfo(flat.dtype)
    with torch.no_grad():
        # Clamped, zero and infinite vectors give 0 and inf by themselves; NaN stays NaN.
        scale = flat.abs().amax(-1, keepdim=True).clamp(bounds.tiny, bounds.max)
    return scale.squeeze(-1) * torch.linalg.vector_norm(flat / scale, dim=-1)


def partition(tree: Tree) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Tree]]:
    """The tensors among the leaves, and how to put others in their places; what is not a tensor stays as it is."""
    parts, structure = flatten(tree)
    places = [place for place, part in enumerate(parts) if isinstance(part, Tensor)]

    def rebuild(tensors: Sequence[Tensor]) -> Tree:
        filled = list(parts)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return unflatten(filled, structure)

    return [parts[place] for place in places], rebuild


def ravel(tree: Tree, batch_ndim: int = 0) -> tuple[Tensor, Callable[[Tensor], Tree]]:
    """The tensors of the tree as one ``(*batch, N)`` tensor, and the way back.

    They may be 0-d (without batch), empty, and of several floating dtypes: the flat tensor has the widest, and
    ``unravel`` gives each its own again. ``unravel`` takes any leading dimensions, not only those of ``tree``.

    Raises:
        ValueError: no tensor, or tensors that disagree in their batch dimensions.
    """
    if isinstance(tree, Tensor) and batch_ndim < tree.ndim:  # what most trees are: a fraction of the general overhead
        lead, own = tree.shape[:batch_ndim], tree.shape[batch_ndim:]
        return tree.reshape((*lead, own.numel())), lambda vector: vector.reshape(vector.shape[:-1] + own).to(tree.dtype)
    parts, rebuild = partition(tree)
    if not parts:
        raise ValueError("ravel: the tree holds no tensor.")
    batch = parts[0].shape[:batch_ndim]
    if len(batch) < batch_ndim or any(part.shape[:batch_ndim] != batch for part in parts):
        raise ValueError(
            f"ravel: tensors of shapes {[tuple(part.shape) for part in parts]} do not share {batch_ndim} leading batch "
            "dimensions; expand them, or lower batch_ndim."
        )
    shapes = [part.shape[batch_ndim:] for part in parts]
    dtypes = [part.dtype for part in parts]
    sizes = [shape.numel() for shape in shapes]
    # Sizes are spelled out: -1 is ambiguous where a batch of 0 leaves nothing to count.
    rows = [part.reshape((*batch, size)) for part, size in zip(parts, sizes, strict=True)]
    flat = rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)

    def unravel(vector: Tensor) -> Tree:
        pieces = [vector] if len(sizes) == 1 else vector.split(sizes, dim=-1)
        lead = vector.shape[:-1]
        return rebuild(
            [piece.reshape(lead + shape).to(dtype) for piece, shape, dtype in zip(pieces, shapes, dtypes, strict=True)]
        )

    return flat, unravel
