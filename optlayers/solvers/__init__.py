"""Algorithms: data in, numbers out, no derivatives."""

from .interior_point import InteriorPoint
from .picard import Picard

__all__ = ["InteriorPoint", "Picard"]
