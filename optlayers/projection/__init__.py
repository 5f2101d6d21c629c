"""Projections onto convex sets and cones (and some sets that are not convex), differentiable in point and set."""

from .affine import affine, halfspace, hyperplane, polyhedron
from .balls import box, hypercube, l2_ball, l2_sphere, linf_ball
from .simplices import l1_ball, l1_sphere, simplex, sparse_simplex

__all__ = [
    "affine",
    "box",
    "halfspace",
    "hypercube",
    "hyperplane",
    "l1_ball",
    "l1_sphere",
    "l2_ball",
    "l2_sphere",
    "linf_ball",
    "polyhedron",
    "simplex",
    "sparse_simplex",
]
