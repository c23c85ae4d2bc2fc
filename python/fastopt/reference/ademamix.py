"""AdEMAMix (arXiv 2409.03137)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .adam import moments
from .half import Array
from .math import lerp
from .pipeline import rule


@rule("ademamix")
def ademamix(
    param: Array,
    grad: Array,
    exp_avg_fast: Array,
    exp_avg_slow: Array,
    exp_avg_sq: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    one_minus_beta3: Any,
    fast_step: Any,
    slow_step: Any,
    root_correction: Any,
    eps: Any,
) -> tuple[Array, ...]:
    """``fast_step`` is lr / (1 - beta1^t), ``slow_step`` is lr * alpha_t, ``root_correction`` 1 / sqrt(1 - beta2^t)."""
    exp_avg_fast, exp_avg_sq = moments(grad, exp_avg_fast, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2)
    exp_avg_slow = lerp(exp_avg_slow, grad, one_minus_beta3)
    direction = fast_step * exp_avg_fast + slow_step * exp_avg_slow
    param = param - direction / (np.sqrt(exp_avg_sq) * root_correction + eps)
    return param, exp_avg_fast, exp_avg_slow, exp_avg_sq
