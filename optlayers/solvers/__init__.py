"""Algorithms: data in, numbers out, no derivatives."""

from .interior_point import InteriorPoint
from .picard import Picard
from .sparse import Clarabel

__all__ = ["Clarabel", "InteriorPoint", "Picard"]
