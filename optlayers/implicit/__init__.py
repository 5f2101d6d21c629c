"""Derivatives of solutions: one rule for every root, the decorators on top of it, and the choice of adjoint."""

from .adjoint import Adjoint, Implicit, OneStep, Smoothed, Unroll
from .custom_root import custom_fixed_point, custom_root, root_jvp, root_vjp
from .module import ImplicitModule

__all__ = [
    "Adjoint",
    "Implicit",
    "ImplicitModule",
    "OneStep",
    "Smoothed",
    "Unroll",
    "custom_fixed_point",
    "custom_root",
    "root_jvp",
    "root_vjp",
]
