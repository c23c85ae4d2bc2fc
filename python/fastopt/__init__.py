"""fastopt: fused native kernels for training neural networks with PyTorch.

Every optimizer is a drop-in for its namesake in ``torch.optim``: same arguments, defaults, errors,
state and checkpoints. ``fastopt.info()`` tells what runs underneath.
"""

from . import optim
from ._runtime import info
from ._version import __version__
from .optim import (
    ASGD,
    SGD,
    AdaBound,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
)

__all__ = [
    "ASGD",
    "SGD",
    "AdaBound",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "__version__",
    "info",
    "optim",
]
