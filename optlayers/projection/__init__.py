"""Projections onto convex sets and cones (and some sets that are not convex), differentiable in point and set."""

from .affine import affine, halfspace, hyperplane, polyhedron
from .balls import box, hypercube, l2_ball, l2_sphere, linf_ball
from .cones import dual, exponential, nonneg, power, second_order, zero
from .couplings import birkhoff, transport
from .entropic import kl_birkhoff, kl_transport
from .isotonic import isotonic
from .matrices import nuclear_ball, psd
from .sections import box_section, capped_simplex
from .simplices import l1_ball, l1_sphere, simplex, sparse_simplex

__all__ = [
    "affine",
    "birkhoff",
    "box",
    "box_section",
    "capped_simplex",
    "dual",
    "exponential",
    "halfspace",
    "hypercube",
    "hyperplane",
    "isotonic",
    "kl_birkhoff",
    "kl_transport",
    "l1_ball",
    "l1_sphere",
    "l2_ball",
    "l2_sphere",
    "linf_ball",
    "nonneg",
    "nuclear_ball",
    "polyhedron",
    "power",
    "psd",
    "second_order",
    "simplex",
    "sparse_simplex",
    "transport",
    "zero",
]
