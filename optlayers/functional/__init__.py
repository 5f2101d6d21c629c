"""Problem in, differentiable solution out."""

from .closest import ClosestQPSolution, solve_closest_qp
from .cone import ConeSolution, solve_cone
from .diffcp_rule import Diffcp
from .fixed_point import fixed_point
from .minimise import MinimiseSolution, minimise
from .project import project
from .qp import QPSolution, solve_qp
from .root import root

__all__ = [
    "ClosestQPSolution",
    "ConeSolution",
    "Diffcp",
    "MinimiseSolution",
    "QPSolution",
    "fixed_point",
    "minimise",
    "project",
    "root",
    "solve_closest_qp",
    "solve_cone",
    "solve_qp",
]
