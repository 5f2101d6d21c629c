"""The operator of a linear system: two linear maps on pytrees, each other's transpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .._base import tree
from .._base.tree import Tree

LinearMap = Callable[[Tree], Tree]


@dataclass(frozen=True)
class Operator:
    """A linear map ``matvec`` from trees to trees, and its transpose ``rmatvec``.

    Without ``rmatvec`` the transpose is derived by :func:`torch.func.vjp`. It then evaluates ``matvec`` once per
    product, and takes the operator for square: the domain is shaped like the image.
    """

    matvec: LinearMap
    rmatvec: LinearMap | None = None

    @property
    def T(self) -> Operator:
        """The transposed operator, whose transpose is this one."""
        matvec = self.matvec
        return Operator(self.rmatvec or (lambda v: transpose(matvec, v)(v)), matvec)

    def shifted(self, ridge: float) -> Operator:
        """``A + ridge I``."""
        if ridge == 0.0:
            return self

        def plus(fn: LinearMap) -> LinearMap:
            def sum_of(v: Tree) -> Tree:
                tensors, rebuild = tree.partition(v)
                return rebuild([a + ridge * u for a, u in zip(tree.partition(fn(v))[0], tensors, strict=True)])

            return sum_of

        return Operator(plus(self.matvec), None if self.rmatvec is None else plus(self.rmatvec))


def transpose(matvec: LinearMap, like: Tree) -> LinearMap:
    """The transpose of a linear map whose domain is shaped like ``like``; evaluates ``matvec`` once, here."""
    tensors, rebuild = tree.partition(like)

    def flat(*values: torch.Tensor) -> list[torch.Tensor]:
        return tree.partition(matvec(rebuild(values)))[0]

    # Linear: the derivative is the same everywhere, so it is taken at zero.
    pull_back = torch.func.vjp(flat, *[torch.zeros_like(tensor) for tensor in tensors])[1]
    return lambda v: rebuild(pull_back(tree.partition(v)[0]))
