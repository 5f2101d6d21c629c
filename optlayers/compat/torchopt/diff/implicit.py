"""TorchOpt's implicit derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....implicit import custom_root as _custom_root
from ..nn import ImplicitMetaGradientModule

__all__ = ["ImplicitMetaGradientModule", "custom_root"]


def custom_root(
    optimality_fn: Callable[..., Any],
    argnums: int | tuple[int, ...],
    has_aux: bool = False,
    solve: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """:func:`optlayers.custom_root`; arguments and results may be any pytrees."""
    return _custom_root(optimality_fn, argnums, has_aux, solve)
