"""Optimization problems as modules."""

from .activations import Entmax, Softmax, Sparsemax
from .cvxpy import CvxpyLayer, CvxpySolution
from .deq import FixedPointLayer
from .multilabel import LML
from .opt import OptLayer
from .qp import QPLayer

__all__ = [
    "LML",
    "CvxpyLayer",
    "CvxpySolution",
    "Entmax",
    "FixedPointLayer",
    "OptLayer",
    "QPLayer",
    "Softmax",
    "Sparsemax",
]
