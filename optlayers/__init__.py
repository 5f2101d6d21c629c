"""Differentiable convex optimization layers for PyTorch.

Solvers find points, `implicit` differentiates points, `functional` joins the two, `layers` give them a `forward`.
"""

from . import linear_solve, optim, projection, prox
from ._base.status import Solution, SolveError, Status
from .functional import (
    ClosestQPSolution,
    ConeSolution,
    QPSolution,
    fixed_point,
    root,
    solve_closest_qp,
    solve_cone,
    solve_qp,
)
from .implicit import Implicit, ImplicitModule, OneStep, Unroll, custom_fixed_point, custom_root, root_jvp, root_vjp
from .layers import LML, Entmax, FixedPointLayer, QPLayer, Softmax, Sparsemax
from .optim import (
    MetaAdadelta,
    MetaAdagrad,
    MetaAdam,
    MetaAdamax,
    MetaAdamW,
    MetaAdan,
    MetaLamb,
    MetaLion,
    MetaNAdam,
    MetaOptimizer,
    MetaRAdam,
    MetaRMSprop,
    MetaSGD,
    extract_state_dict,
    module_clone,
    module_detach_,
    recover_state_dict,
    stop_gradient,
)
from .solvers import (
    LBFGS,
    LBFGSB,
    SCS,
    Anderson,
    Bisection,
    BlockCoordinateDescent,
    Broyden,
    Clarabel,
    Cones,
    FrankWolfe,
    GaussNewton,
    GradientDescent,
    InteriorPoint,
    LevenbergMarquardt,
    MirrorDescent,
    Newton,
    Picard,
    ProjectedGradient,
    ProximalGradient,
)

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - by floor
    "__version__",
    # what became of each sample
    "Solution",
    "SolveError",
    "Status",
    # linear solvers, for the backward pass and for themselves
    "linear_solve",
    # projections onto sets and cones, proximal operators of penalties
    "projection",
    "prox",
    # optimizers: functions, torch classes, steps that can be differentiated
    "optim",
    "MetaAdadelta",
    "MetaAdagrad",
    "MetaAdam",
    "MetaAdamax",
    "MetaAdamW",
    "MetaAdan",
    "MetaLamb",
    "MetaLion",
    "MetaNAdam",
    "MetaOptimizer",
    "MetaRAdam",
    "MetaRMSprop",
    "MetaSGD",
    "extract_state_dict",
    "module_clone",
    "module_detach_",
    "recover_state_dict",
    "stop_gradient",
    # derivatives of solutions
    "Implicit",
    "ImplicitModule",
    "OneStep",
    "Unroll",
    "custom_fixed_point",
    "custom_root",
    "root_jvp",
    "root_vjp",
    # algorithms
    "Anderson",
    "Bisection",
    "BlockCoordinateDescent",
    "Broyden",
    "Clarabel",
    "Cones",
    "FrankWolfe",
    "GaussNewton",
    "GradientDescent",
    "InteriorPoint",
    "LBFGS",
    "LBFGSB",
    "LevenbergMarquardt",
    "MirrorDescent",
    "Newton",
    "Picard",
    "SCS",
    "ProjectedGradient",
    "ProximalGradient",
    # problem in, differentiable solution out
    "ClosestQPSolution",
    "ConeSolution",
    "QPSolution",
    "fixed_point",
    "root",
    "solve_closest_qp",
    "solve_cone",
    "solve_qp",
    # layers
    "Entmax",
    "FixedPointLayer",
    "LML",
    "QPLayer",
    "Softmax",
    "Sparsemax",
]
