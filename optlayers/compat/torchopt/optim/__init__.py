"""TorchOpt's optimizers that hold their state."""

from . import func, meta
from .base import Optimizer
from .classes import SGD, AdaDelta, Adadelta, AdaGrad, Adagrad, Adam, AdaMax, Adamax, AdamW, RAdam, RMSProp, RMSprop
from .func import FuncOptimizer

__all__ = [
    "SGD", "AdaDelta", "AdaGrad", "AdaMax", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "FuncOptimizer",
    "Optimizer", "RAdam", "RMSProp", "RMSprop", "func", "meta",
]  # fmt: skip
