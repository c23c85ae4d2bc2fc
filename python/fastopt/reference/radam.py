"""RAdam (arXiv 1908.03265)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .adam import moments
from .half import Array
from .pipeline import rule


@rule("radam")
def radam(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    step_size: Any,
    rectified: Any,
    eps: Any,
) -> tuple[Array, ...]:
    """``step_size`` includes bias corrections and, where ``rectified`` is not 0, the rectification."""
    exp_avg, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2)
    root = np.sqrt(exp_avg_sq) + eps if rectified != 0 else param.dtype.type(1)
    return param - (step_size * exp_avg) / root, exp_avg, exp_avg_sq
