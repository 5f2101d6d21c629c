"""TorchOpt's chains: every chain here works on flat lists, so both names are one function."""

from __future__ import annotations

from ... import optim
from .base import ChainedGradientTransformation

__all__ = ["chain", "chain_flat"]


def chain(*transformations: optim.GradientTransformation) -> ChainedGradientTransformation:
    """One transformation after the other."""
    return ChainedGradientTransformation(*transformations)


chain_flat = chain
