"""Projections onto convex sets and cones (and some sets that are not convex), differentiable in point and set."""

from .simplices import simplex

__all__ = ["simplex"]
