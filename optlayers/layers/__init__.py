"""Optimization problems as modules."""

from .activations import Entmax, Softmax, Sparsemax
from .deq import FixedPointLayer
from .multilabel import LML
from .qp import QPLayer

__all__ = ["LML", "Entmax", "FixedPointLayer", "QPLayer", "Softmax", "Sparsemax"]
