"""A quadratic program as a module: some of its data are held, the rest come with each call."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..functional import ClosestQPSolution, QPSolution, solve_closest_qp, solve_qp
from ..implicit import Adjoint, Implicit
from ..solvers import InteriorPoint

_NAMES = ("Q", "p", "G", "h", "A", "b", "lb", "ub")
_PAIRS = (("G", "h"), ("A", "b"))


class QPLayer(nn.Module):
    r"""A layer that solves a batch of convex quadratic programs.

    .. math:: x^\star = \arg\min_x\ \tfrac12 x^\top Q x + p^\top x
              \quad\text{s.t.}\quad Gx \le h,\; Ax = b,\; l \le x \le u

    A tensor given to the constructor is a buffer, an ``nn.Parameter`` is learned; what is not given comes with each
    call, by keyword. Where exactly one argument is missing (``Q``, ``p``, or the other half of a given ``G`` or ``h``,
    ``A`` or ``b``) it may come by position, so that the layer sits in an ``nn.Sequential``.

    Args:
        Q, p, G, h, A, b, lb, ub: as in :func:`~optlayers.solve_qp`, with or without batch dimensions.
        solver, adjoint: as in :func:`~optlayers.solve_qp`.
        throw: raise :class:`~optlayers.SolveError` if a sample fails; otherwise its ``x`` is NaN with zero gradient.
        closest: where a program has no feasible point, solve the closest one that has
            (:func:`~optlayers.solve_closest_qp`), so that constraints can be learned from any start.

    Example:
        A layer that projects onto the simplex, with the vector to project as ``p = -x``::

            layer = QPLayer(Q=torch.eye(5), A=torch.ones(1, 5), b=torch.ones(1), lb=torch.zeros(5))
            x = layer(-torch.randn(32, 5))

    References: Amos and Kolter, "OptNet: Differentiable optimization as a layer in neural networks" (2017).
    """

    def __init__(
        self,
        Q: Tensor | None = None,
        p: Tensor | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        A: Tensor | None = None,
        b: Tensor | None = None,
        lb: Tensor | None = None,
        ub: Tensor | None = None,
        *,
        solver: InteriorPoint = InteriorPoint(),
        adjoint: Adjoint = Implicit(),
        throw: bool = True,
        closest: bool = False,
    ):
        super().__init__()
        for name, value in zip(_NAMES, (Q, p, G, h, A, b, lb, ub), strict=True):
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            elif value is None or isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                raise TypeError(f"QPLayer: {name} is a {type(value).__name__}; expected a tensor, a parameter or None.")
        self.solver = solver
        self.adjoint = adjoint
        self.throw = throw
        self.closest = closest

    def forward(self, *args: Tensor, init: QPSolution | None = None, **data: Tensor) -> Tensor:
        """The minimizer ``x (*, n)``; the missing data by keyword, or by position if there is one."""
        return self.solve(*args, init=init, **data).x

    def solve(self, *args: Tensor, init: QPSolution | None = None, **data: Tensor) -> QPSolution | ClosestQPSolution:
        """The whole :class:`~optlayers.QPSolution`, or :class:`~optlayers.ClosestQPSolution` with ``closest``.

        `init` is the solution of a similar program, for a warm start as in :func:`~optlayers.solve_qp`.
        """
        if args:
            data = {**self._positional(args, data), **data}
        for name in data:
            if name not in _NAMES:
                raise TypeError(f"QPLayer: unknown argument {name!r}; expected some of {', '.join(_NAMES)}.")
            if getattr(self, name) is not None:
                raise TypeError(f"QPLayer: {name} was given to the constructor and again to the call.")
        held: dict[str, Any] = {name: getattr(self, name) for name in _NAMES}
        options = {"solver": self.solver, "adjoint": self.adjoint, "throw": self.throw}
        if not self.closest:
            return solve_qp(**{**held, **data}, **options, init=init)
        if init is not None:
            raise ValueError("QPLayer: init is given to a layer with closest=True; expected None. Leave it out.")
        return solve_closest_qp(**{**held, **data}, **options)

    def _positional(self, args: tuple[Tensor, ...], data: dict[str, Tensor]) -> dict[str, Tensor]:
        present = {name for name in _NAMES if getattr(self, name) is not None} | set(data)
        missing = [name for name in ("Q", "p") if name not in present]
        for pair in _PAIRS:
            if len(present.intersection(pair)) == 1:
                missing += [name for name in pair if name not in present]
        if len(args) != 1 or len(missing) != 1:
            raise TypeError(
                f"QPLayer: {len(args)} positional arguments, while {', '.join(missing) or 'nothing'} is missing; "
                f"expected one where exactly one is missing. Pass data by keyword."
            )
        return {missing[0]: args[0]}

    def extra_repr(self) -> str:
        held = [f"{name}={tuple(getattr(self, name).shape)}" for name in _NAMES if getattr(self, name) is not None]
        return ", ".join([*held, f"solver={self.solver}", f"adjoint={self.adjoint}"])
