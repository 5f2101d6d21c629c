"""TorchOpt's modules."""

from .meta_gradient import ImplicitMetaGradientModule, MetaGradientModule
from .stateless import reparameterize, reparametrize, swap_state
from .zero_order import ZeroOrderGradientModule

__all__ = [
    "ImplicitMetaGradientModule", "MetaGradientModule", "ZeroOrderGradientModule", "reparameterize", "reparametrize",
    "swap_state",
]  # fmt: skip
