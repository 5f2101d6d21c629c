"""Any smooth program as a module: functions of one sample in, a batch of differentiable minimizers out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._base import tree
from .._base.status import Solution
from ..functional import MinimiseSolution, minimise, root
from ..functional.descent import on_batch
from ..functional.program import Function, InDims, axes, batch_of
from ..implicit import Adjoint, Implicit
from ..solvers import Newton


class OptLayer(nn.Module):
    r"""A layer that minimises a function of its inputs, under constraints that depend on them.

    .. math:: x^\star(\theta) = \arg\min_x\ f(x, \theta) \quad\text{s.t.}\quad h(x, \theta) = 0,\; g(x, \theta) \le 0

    The functions are those of one sample. What they capture is shared by the batch and learned where it requires a
    gradient; a function that is an ``nn.Module`` is a submodule, and its parameters are those of the layer.

    Args:
        objective, equality, inequality: as in :func:`~optlayers.minimise`.
        residual: in place of these, ``F(x, *args)``, shaped like ``x`` and zero at the solution: KKT conditions, an
            equilibrium. It is solved by Newton's method (:func:`~optlayers.root`) and differentiated.
        init: where to start: a tensor or pytree shaped like ``x`` of one sample, or a function of the arguments of one
            sample that returns it. Tensors are buffers, and move with the layer.
        solver, adjoint, throw: as in :func:`~optlayers.minimise`.
        in_dims: the batch dimension of each argument of ``forward``: 0 by default; None for a single program, a tuple
            with None for an argument that the batch shares.

    Example:
        Softmax, as the maximum of entropy plus a score::

            def objective(x, score):
                return (x * x.log()).sum() - score @ x

            softmax = OptLayer(objective, equality=lambda x, score: x.sum() - 1, init=torch.full((5,), 0.2))
            x = softmax(torch.randn(32, 5))
    """

    def __init__(
        self,
        objective: Function | None = None,
        equality: Function | None = None,
        inequality: Function | None = None,
        residual: Function | None = None,
        *,
        init: Any,
        solver: Any = None,
        adjoint: Adjoint = Implicit(),
        in_dims: InDims = 0,
        throw: bool = True,
    ):
        super().__init__()
        if (objective is None) == (residual is None) or (residual is not None and (equality or inequality) is not None):
            raise ValueError(
                "OptLayer: expected an objective, with equality and inequality if it has any, or a residual alone."
            )
        self.residual: Any = residual
        self.objective: Any = objective
        self.equality = equality
        self.inequality = inequality
        self.init = init if callable(init) else None
        leaves, _ = tree.partition(None if callable(init) else init)
        for index, leaf in enumerate(leaves):
            self.register_buffer(f"init_{index}", leaf, persistent=False)
        # Where the buffers go; the tensors themselves would not move with the layer.
        self._places = None if callable(init) else tree.map(lambda leaf: isinstance(leaf, Tensor) or leaf, init)
        self.solver = solver
        self.adjoint = adjoint
        self.in_dims = in_dims
        self.throw = throw

    def forward(self, *args: Any) -> Any:
        """The minimizer, with the batch in front."""
        return self.solve(*args).x

    def solve(self, *args: Any) -> MinimiseSolution | Solution:
        """The whole :class:`~optlayers.MinimiseSolution`, or :class:`~optlayers.Solution` of a residual."""
        if self.objective is None:
            return self._root(args)
        return minimise(
            self.objective,
            self._start(args),
            args,
            equality=self.equality,
            inequality=self.inequality,
            solver=self.solver,
            adjoint=self.adjoint,
            in_dims=self.in_dims,
            throw=self.throw,
        )

    def _root(self, args: tuple) -> Solution:
        batch = batch_of("OptLayer", self._start(args), args, self.in_dims)
        solver = Newton() if self.solver is None else self.solver
        solver = solver if batch.single else replace(solver, batch_ndim=1)
        init = batch.unravel(batch.init[0] if batch.single else batch.init)
        fn, args = on_batch(self.residual, batch), batch.rebuild(batch.tensors)
        return root(fn, init, args, solver=solver, adjoint=self.adjoint, throw=self.throw)

    def _start(self, args: tuple) -> Any:
        if self.init is not None:
            with torch.no_grad():
                if self.in_dims is None:
                    return self.init(*args)
                return torch.vmap(self.init, in_dims=axes("OptLayer", args, self.in_dims))(*args)
        buffers = iter(range(len(tree.leaves(self._places))))
        init = tree.map(lambda leaf: getattr(self, f"init_{next(buffers)}") if leaf is True else leaf, self._places)
        if self.in_dims is None:
            return init
        return tree.map(lambda leaf: leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf, init)

    def extra_repr(self) -> str:
        return f"solver={self.solver}, adjoint={self.adjoint}, in_dims={self.in_dims}"
