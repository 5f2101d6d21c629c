"""Optimization problems as modules."""

from .activations import Entmax, Softmax, Sparsemax
from .cvxpy import CvxpyLayer, CvxpySolution
from .deq import FixedPointLayer
from .multilabel import LML, TopK
from .opt import OptLayer
from .qp import QPLayer
from .sorting import SoftRank, SoftSort
from .transport import OptimalTransport

__all__ = [
    "LML",
    "CvxpyLayer",
    "CvxpySolution",
    "Entmax",
    "FixedPointLayer",
    "OptLayer",
    "OptimalTransport",
    "QPLayer",
    "SoftRank",
    "SoftSort",
    "Softmax",
    "Sparsemax",
    "TopK",
]
