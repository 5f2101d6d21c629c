"""TorchOpt's two ways around an explicit derivative."""

from . import implicit, zero_order
from .implicit import ImplicitMetaGradientModule
from .zero_order import ZeroOrderGradientModule

__all__ = ["ImplicitMetaGradientModule", "ZeroOrderGradientModule", "implicit", "zero_order"]
