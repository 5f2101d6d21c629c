"""Optimization problems as modules."""

from .activations import Entmax, Softmax, Sparsemax
from .multilabel import LML
from .qp import QPLayer

__all__ = ["LML", "Entmax", "QPLayer", "Softmax", "Sparsemax"]
