"""Every operation of fastopt in NumPy: the definition that the kernels are tested against, to the bit, and the fallback
where the extension is missing. The code prefers clarity to speed.
"""

from . import (
    adabound,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adan,
    ademamix,
    adopt,
    asgd,
    lamb,
    lars,
    lion,
    lookahead,
    muon,
    nadam,
    prodigy,
    radam,
    rmsprop,
    rprop,
    schedule_free,
    sgd,
    stable_adamw,
)
from .batch_norm import (
    batch_norm,
    batch_norm_apply,
    batch_norm_backward,
    batch_norm_gather_stats,
    batch_norm_gradient,
    batch_norm_moments,
    batch_norm_sums,
)
from .dropout import drop, drop_and_sum, write_mask
from .norm import norm, norm_backward
from .operands import count, expect_first_write
from .pipeline import RULES, rules
from .rows import sum_rows
from .step import Step

__all__ = [
    "RULES",
    "Step",
    "adabound",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adan",
    "ademamix",
    "adopt",
    "asgd",
    "batch_norm",
    "batch_norm_apply",
    "batch_norm_backward",
    "batch_norm_gather_stats",
    "batch_norm_gradient",
    "batch_norm_moments",
    "batch_norm_sums",
    "count",
    "drop",
    "drop_and_sum",
    "dropout",
    "expect_first_write",
    "lamb",
    "lars",
    "lion",
    "lookahead",
    "muon",
    "nadam",
    "norm",
    "norm_backward",
    "prodigy",
    "radam",
    "rmsprop",
    "rprop",
    "rules",
    "schedule_free",
    "sgd",
    "stable_adamw",
    "sum_rows",
    "write_mask",
]
