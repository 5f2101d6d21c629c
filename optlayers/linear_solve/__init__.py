"""Linear solvers on pytrees, matrix-free and batched: what implicit differentiation solves its systems with."""

from .auto import Auto
from .bicgstab import BiCGSTAB
from .cg import CG
from .dense import LDL, LU, Cholesky
from .gmres import GMRES
from .minres import MINRES
from .neumann import Identity, Neumann
from .normal_cg import NormalCG
from .operator import Operator
from .solver import ConvergenceWarning, LinearSolution, LinearSolver

__all__ = [
    "CG",
    "GMRES",
    "LDL",
    "LU",
    "MINRES",
    "Auto",
    "BiCGSTAB",
    "Cholesky",
    "ConvergenceWarning",
    "Identity",
    "LinearSolution",
    "LinearSolver",
    "Neumann",
    "NormalCG",
    "Operator",
]
