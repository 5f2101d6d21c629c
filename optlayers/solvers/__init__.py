"""Algorithms: data in, numbers out, no derivatives."""

from .admm import ADMM
from .anderson import Anderson
from .bisection import Bisection
from .block_coordinate import BlockCoordinateDescent
from .broyden import Broyden
from .cone_interior_point import ConeInteriorPoint
from .conic import Cones
from .conic_scs import SCS
from .frank_wolfe import FrankWolfe
from .gradient_descent import GradientDescent
from .interior_point import InteriorPoint
from .iterative import FixedPointSolver, IterativeSolver, Minimiser, RootSolver
from .lbfgs import LBFGS
from .lbfgsb import LBFGSB
from .least_squares import GaussNewton, LevenbergMarquardt
from .mirror_descent import MirrorDescent
from .newton import Newton
from .picard import Picard
from .proximal_gradient import ProjectedGradient, ProximalGradient
from .smooth_interior_point import SmoothInteriorPoint
from .sparse import Clarabel

__all__ = [
    "ADMM",
    "LBFGS",
    "LBFGSB",
    "SCS",
    "Anderson",
    "Bisection",
    "BlockCoordinateDescent",
    "Broyden",
    "Clarabel",
    "ConeInteriorPoint",
    "Cones",
    "FixedPointSolver",
    "FrankWolfe",
    "GaussNewton",
    "GradientDescent",
    "InteriorPoint",
    "IterativeSolver",
    "LevenbergMarquardt",
    "Minimiser",
    "MirrorDescent",
    "Newton",
    "Picard",
    "ProjectedGradient",
    "ProximalGradient",
    "RootSolver",
    "SmoothInteriorPoint",
]
