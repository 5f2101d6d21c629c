"""Deep equilibria: a layer whose output is the fixed point of a map."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from .._base import tree
from .._base.status import Solution
from ..functional import fixed_point
from ..implicit import Adjoint, Implicit
from ..implicit.tracking import paused
from ..solvers import Anderson, FixedPointSolver, RootSolver


class FixedPointLayer(nn.Module):
    r"""A layer of infinite depth: the equilibrium of one layer that is fed its own output.

    .. math:: z^\star = f(z^\star, x)

    The memory of forward and backward together is that of one evaluation of ``fn``, whatever the number of steps. The
    gradient reaches ``x``, the parameters of ``fn`` and what ``fn`` captures; with :class:`~optlayers.Implicit` it is
    exact, at any order. Cheaper ones are chosen by name: ``Implicit(linear_solve.Identity())`` is the Jacobian-free
    gradient, ``Implicit(linear_solve.Neumann(k))`` that of k backward steps, ``OneStep(k)`` the phantom gradient.

    Args:
        fn: ``fn(z, x)``, a module or a function, with the structure and shapes of ``z``. It must be deterministic and
            treat samples apart: batch normalization, for one, makes strangers depend on each other.
        solver: the forward algorithm; its ``batch_ndim`` says which leading dimensions index samples.
        adjoint: the backward algorithm.
        throw: raise :class:`~optlayers.SolveError` if a sample did not converge. A point that is not an equilibrium
            has no gradient of an equilibrium, and is never passed off as one: without `throw` such samples are NaN,
            with gradient zero. Leave them out of the loss, by ``layer.solve(x).status``, and train on.

    Example:
        A layer that contracts, and an equilibrium of it for each row of ``x``::

            layer = FixedPointLayer(lambda z, x: torch.tanh(0.5 * z.roll(1, -1) + x))
            z = layer(torch.randn(32, 10))

    References: Bai, Kolter, Koltun, "Deep equilibrium models" (2019); Fung et al., "JFB: Jacobian-free backpropagation
    for implicit networks" (2022); Geng et al., "On training implicit models" (2021), for phantom gradients.
    """

    def __init__(
        self,
        fn: Callable[[Any, Any], Any],
        *,
        solver: FixedPointSolver | RootSolver = Anderson(batch_ndim=1),
        adjoint: Adjoint = Implicit(),
        throw: bool = True,
    ):
        super().__init__()
        self.fn = fn
        self.solver = solver
        self.adjoint = adjoint
        self.throw = throw

    def forward(self, x: Any, init: Any = None) -> Any:
        """The equilibrium for ``x``, from ``init`` on; as :meth:`solve`."""
        return self.solve(x, init).x

    def solve(self, x: Any, init: Any = None) -> Solution:
        """The equilibrium, and for each sample its status, iterations and residual.

        Args:
            x: a tensor ``(*batch, ...)`` or a pytree.
            init: where to start, shaped like ``z``, for instance the equilibrium of the epoch before; gets no gradient.
                Without, zeros shaped like ``x``.

        Raises:
            SolveError: a sample did not converge, and ``throw`` is set.
            ValueError: the map gives other shapes than it takes.
        """
        init = tree.map(torch.zeros_like, x) if init is None else init
        module, fn, args = self.fn, self.fn, (x,)
        if isinstance(module, nn.Module) and torch.compiler.is_compiling():
            # A compiled residual cannot capture: the parameters are handed to it.
            fn, args = functools.partial(_call, module), (x, dict(module.named_parameters()))
        return fixed_point(fn, init, args, solver=self.solver, adjoint=self.adjoint, throw=self.throw)

    def jacobian_norm(self, z: Any, x: Any, samples: int = 1) -> Tensor:
        r"""An unbiased estimate of :math:`\|\partial f / \partial z\|_F^2 / d`, which kept small keeps the map stable.

        Differentiable: add its mean to the loss. Each of the `samples` costs one vector-Jacobian product.

        Args:
            z: an equilibrium for ``x``, d entries a sample.

        Returns:
            ``(*batch)``.

        References: Bai, Koltun, Kolter, "Stabilizing equilibrium models by Jacobian regularization" (2021).
        """
        if samples < 1:
            raise ValueError(f"FixedPointLayer.jacobian_norm: samples is {samples}; expected at least 1.")
        image, pull = vjp(lambda z: self.fn(z, x), z)[:2]
        squares = []
        for _ in range(samples):
            row, _ = tree.ravel(pull(tree.map(torch.randn_like, image))[0], self.solver.batch_ndim)
            squares.append(row.square().mean(-1))
        return torch.stack(squares).mean(0)

    def spectral_radius(self, z: Any, x: Any, steps: int = 100) -> Tensor:
        r"""The largest modulus of an eigenvalue of :math:`\partial f / \partial z`; Picard iteration needs it below 1.

        The mean growth over the second half of the steps of a power iteration, which converges for a conjugate pair of
        eigenvalues as well, for which a Rayleigh quotient goes round in circles. Not differentiable.

        Args:
            z: an equilibrium for ``x``.
            steps: one vector-Jacobian product each; the error falls as 1 / steps.

        Returns:
            ``(*batch)``.
        """
        if steps < 2:
            raise ValueError(f"FixedPointLayer.spectral_radius: steps is {steps}; expected at least 2.")
        with paused():
            image, pull = vjp(lambda z: self.fn(z, x), z)[:2]
            v, unravel = tree.ravel(tree.map(torch.randn_like, image), self.solver.batch_ndim)
            growth = []
            for _ in range(steps):
                v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
                v, _ = tree.ravel(pull(unravel(v))[0], self.solver.batch_ndim)
                growth.append(torch.linalg.vector_norm(v, dim=-1))
            return torch.stack(growth[steps // 2 :]).log().mean(0).exp()

    def extra_repr(self) -> str:
        return f"solver={self.solver}, adjoint={self.adjoint}"


def _call(module: nn.Module, z: Any, x: Any, parameters: dict[str, Tensor]) -> Any:
    return functional_call(module, parameters, (z, x))
