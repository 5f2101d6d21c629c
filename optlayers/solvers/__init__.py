"""Algorithms: data in, numbers out, no derivatives."""

from .anderson import Anderson
from .bisection import Bisection
from .broyden import Broyden
from .conic import Cones
from .conic_scs import SCS
from .interior_point import InteriorPoint
from .iterative import FixedPointSolver, IterativeSolver, RootSolver
from .newton import Newton
from .picard import Picard
from .sparse import Clarabel

__all__ = [
    "SCS",
    "Anderson",
    "Bisection",
    "Broyden",
    "Clarabel",
    "Cones",
    "FixedPointSolver",
    "InteriorPoint",
    "IterativeSolver",
    "Newton",
    "Picard",
    "RootSolver",
]
