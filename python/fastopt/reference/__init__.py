"""Every operation of fastopt in NumPy: the definition the kernels are tested against, to the bit, and
the fallback where the extension is missing. Clear before fast.
"""

from . import (
    adabound,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    asgd,
    lion,
    lookahead,
    nadam,
    radam,
    rmsprop,
    rprop,
    sgd,
)
from .batch import Batch
from .pipeline import RULES

__all__ = [
    "RULES",
    "Batch",
    "adabound",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "asgd",
    "lion",
    "lookahead",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
]
