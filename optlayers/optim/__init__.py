"""Optimizers as functions that can be differentiated, as torch optimizers, and what they are made of."""

from . import schedules
from .aliases import adadelta, adagrad, adam, adamax, adamw, adan, lamb, lion, nadam, radam, rmsprop, sgd
from .clip import clip_by_global_norm, clip_by_norm, clip_by_value
from .moments import scale_by_adam, scale_by_adamax, scale_by_adan, scale_by_nadam, scale_by_radam
from .momentum import scale_by_lion, trace
from .rescaling import scale_by_adadelta, scale_by_rms, scale_by_rss, scale_by_stddev, scale_by_trust_ratio
from .scaling import (
    add_decayed_weights,
    add_proximal_decay,
    centralize,
    nan_to_num,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
)
from .transformation import GradientTransformation, apply_updates, chain, identity, masked

__all__ = [
    "GradientTransformation",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "add_decayed_weights",
    "add_proximal_decay",
    "apply_updates",
    "centralize",
    "chain",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "identity",
    "lamb",
    "lion",
    "masked",
    "nadam",
    "nan_to_num",
    "radam",
    "rmsprop",
    "scale",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_nadam",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "schedules",
    "sgd",
    "trace",
]
