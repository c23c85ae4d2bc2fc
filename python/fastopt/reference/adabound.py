"""AdaBound and AMSBound (Luo et al., ICLR 2019)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .adam import moments
from .half import Array
from .math import clamp, maximum
from .pipeline import rule


@rule("adabound")
def adabound(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    step_size: Any,
    lower_bound: Any,
    upper_bound: Any,
    eps: Any,
) -> tuple[Array, ...]:
    """``step_size`` is lr * sqrt(1 - beta2^t) / (1 - beta1^t)."""
    exp_avg, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2)
    rate = clamp(step_size / (np.sqrt(exp_avg_sq) + eps), lower_bound, upper_bound)
    return param - rate * exp_avg, exp_avg, exp_avg_sq


@rule("adabound_amsbound")
def adabound_amsbound(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    step_size: Any,
    lower_bound: Any,
    upper_bound: Any,
    eps: Any,
) -> tuple[Array, ...]:
    exp_avg, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2)
    max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
    rate = clamp(step_size / (np.sqrt(max_exp_avg_sq) + eps), lower_bound, upper_bound)
    return param - rate * exp_avg, exp_avg, exp_avg_sq, max_exp_avg_sq
