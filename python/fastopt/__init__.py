"""fastopt: fused native kernels for training neural networks with PyTorch.

Every optimizer is a drop-in for its namesake in ``torch.optim``: same arguments, defaults, errors,
state and checkpoints. ``fastopt.nn`` has drop-ins for modules of ``torch.nn``. ``fastopt.info()`` tells what runs
underneath.
"""

from . import nn, optim
from ._backward_steps import StepInBackward
from ._monitor import Monitor, monitor
from ._offload import offload
from ._runtime import info
from ._step_in_backward import step_in_backward
from ._version import __version__
from .accumulate_grads import accumulate_grads_
from .clip_grad import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from .optim import (
    ADOPT,
    ASGD,
    LAMB,
    LARS,
    LBFGS,
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
    Muon,
    NAdam,
    NonlinearCG,
    Prodigy,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    SparseAdam,
    StableAdamW,
    from_bitsandbytes,
    from_torch,
    muon_groups,
    param_groups,
    switch,
)

__all__ = [
    "ADOPT",
    "ASGD",
    "LAMB",
    "LARS",
    "LBFGS",
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
    "Muon",
    "NAdam",
    "NonlinearCG",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SparseAdam",
    "StableAdamW",
    "StepInBackward",
    "__version__",
    "accumulate_grads_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "from_bitsandbytes",
    "from_torch",
    "get_total_norm",
    "info",
    "monitor",
    "muon_groups",
    "nn",
    "offload",
    "optim",
    "param_groups",
    "step_in_backward",
    "switch",
]
