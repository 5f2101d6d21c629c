"""Optimization problems as modules."""

from .qp import QPLayer

__all__ = ["QPLayer"]
