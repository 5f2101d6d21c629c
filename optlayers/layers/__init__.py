"""Optimization problems as modules."""

from .activations import Entmax, Softmax, Sparsemax
from .deq import FixedPointLayer
from .multilabel import LML
from .opt import OptLayer
from .qp import QPLayer

__all__ = ["LML", "Entmax", "FixedPointLayer", "OptLayer", "QPLayer", "Softmax", "Sparsemax"]
