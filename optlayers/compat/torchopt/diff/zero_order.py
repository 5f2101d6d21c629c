"""TorchOpt's zero-order derivatives. The module is called like the function it is named after, as there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from ..nn.zero_order import ZeroOrderGradientModule, zero_order

__all__ = ["ZeroOrderGradientModule", "zero_order"]


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
        return zero_order(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
