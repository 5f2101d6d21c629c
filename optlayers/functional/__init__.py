"""Problem in, differentiable solution out."""

from .fixed_point import fixed_point
from .qp import QPSolution, solve_qp

__all__ = ["QPSolution", "fixed_point", "solve_qp"]
