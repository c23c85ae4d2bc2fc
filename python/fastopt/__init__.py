"""fastopt: fused native kernels for training neural networks with PyTorch.

Every optimizer is a drop-in for its namesake in ``torch.optim``: same arguments, defaults, errors,
state and checkpoints. ``fastopt.nn`` has drop-ins for modules of ``torch.nn``. ``fastopt.info()`` tells what runs
underneath.
"""

from . import nn, optim
from ._monitor import Monitor, monitor
from ._runtime import info
from ._version import __version__
from .clip_grad import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from .optim import (
    ADOPT,
    ASGD,
    LAMB,
    LARS,
    SGD,
    AdaBound,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    AdEMAMix,
    Lion,
    Lookahead,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    SparseAdam,
    StableAdamW,
    from_bitsandbytes,
    from_torch,
    param_groups,
    switch,
)

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "AdEMAMix",
    "AdaBound",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Lookahead",
    "Monitor",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SparseAdam",
    "StableAdamW",
    "__version__",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "from_bitsandbytes",
    "from_torch",
    "get_total_norm",
    "info",
    "monitor",
    "nn",
    "optim",
    "param_groups",
    "switch",
]
