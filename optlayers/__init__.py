"""Differentiable convex optimization layers for PyTorch.

Solvers find points, `implicit` differentiates points, `functional` joins the two, `layers` give them a `forward`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
