"""The first and the last link of TorchOpt's optimizers."""

from __future__ import annotations

from .... import optim
from ....optim.aliases import Rate
from ....optim.lists import Scalar
from ....optim.scaling import negate
from ..base import GradientTransformation, adapt

__all__ = ["flip_sign_and_add_weight_decay", "scale_by_neg_lr"]


def flip_sign_and_add_weight_decay(weight_decay: Scalar = 0.0, maximize: bool = False) -> GradientTransformation:
    """Turn ascent into descent, then add ``weight_decay * params``."""
    return adapt(optim.chain(negate(maximize), optim.add_decayed_weights(weight_decay)))


def scale_by_neg_lr(lr: Rate) -> GradientTransformation:
    """Multiply by ``-lr``, a number, a tensor or a schedule."""
    return adapt(optim.scale_by_learning_rate(lr))
