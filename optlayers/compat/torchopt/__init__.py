"""The names of TorchOpt 0.7.3: ``import optlayers.compat.torchopt as torchopt``."""

from . import (
    accelerated_op,
    alias,
    base,
    clip,
    combine,
    diff,
    distributed,
    hook,
    linalg,
    linear_solve,
    nn,
    optim,
    pytree,
    schedule,
    transform,
    typing,
    update,
    utils,
)
from .accelerated_op import is_available as accelerated_op_available
from .alias import adadelta, adagrad, adam, adamax, adamw, radam, rmsprop, sgd
from .clip import clip_grad_norm
from .combine import chain
from .hook import register_hook
from .optim import (
    SGD,
    AdaDelta,
    Adadelta,
    AdaGrad,
    Adagrad,
    Adam,
    AdaMax,
    Adamax,
    AdamW,
    FuncOptimizer,
    Optimizer,
    RAdam,
    RMSProp,
    RMSprop,
)
from .optim.meta import (
    MetaAdaDelta,
    MetaAdadelta,
    MetaAdaGrad,
    MetaAdagrad,
    MetaAdam,
    MetaAdaMax,
    MetaAdamax,
    MetaAdamW,
    MetaOptimizer,
    MetaRAdam,
    MetaRMSProp,
    MetaRMSprop,
    MetaSGD,
)
from .transform import nan_to_num
from .update import apply_updates
from .utils import extract_state_dict, module_clone, module_detach_, recover_state_dict, stop_gradient

__all__ = [
    "SGD", "AdaDelta", "AdaGrad", "AdaMax", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "FuncOptimizer",
    "MetaAdaDelta", "MetaAdaGrad", "MetaAdaMax", "MetaAdadelta", "MetaAdagrad", "MetaAdam", "MetaAdamW",
    "MetaAdamax", "MetaOptimizer", "MetaRAdam", "MetaRMSProp", "MetaRMSprop", "MetaSGD", "Optimizer", "RAdam",
    "RMSProp", "RMSprop", "accelerated_op", "accelerated_op_available", "adadelta", "adagrad", "adam", "adamax",
    "adamw", "alias", "apply_updates", "base", "chain", "clip", "clip_grad_norm", "combine", "diff",
    "distributed", "extract_state_dict", "hook", "linalg", "linear_solve", "module_clone", "module_detach_",
    "nan_to_num", "nn", "optim", "pytree", "radam", "recover_state_dict", "register_hook", "rmsprop",
    "schedule", "sgd", "stop_gradient", "transform", "typing", "update", "utils",
]  # fmt: skip
