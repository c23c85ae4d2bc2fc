"""Adam and AdamW (arXiv 1412.6980, 1711.05101), AMSGrad (openreview ryQu7f-RZ)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .math import lerp, maximum
from .pipeline import rule


def moments(
    grad: Array, exp_avg: Array, exp_avg_sq: Array, one_minus_beta1: Any, beta2: Any, one_minus_beta2: Any
) -> tuple[Array, Array]:
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = beta2 * exp_avg_sq + (one_minus_beta2 * grad) * grad
    return exp_avg, exp_avg_sq


@rule("adam")
def adam(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    step_size: Any,
    root_correction: Any,
    eps: Any,
) -> tuple[Array, ...]:
    """``step_size`` is lr / (1 - beta1^t), ``root_correction`` is 1 / sqrt(1 - beta2^t)."""
    exp_avg, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2)
    param = param - (step_size * exp_avg) / (np.sqrt(exp_avg_sq) * root_correction + eps)
    return param, exp_avg, exp_avg_sq


@rule("adam_amsgrad")
def adam_amsgrad(
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
    root_correction: Any,
    eps: Any,
) -> tuple[Array, ...]:
    """The denominator never shrinks: it uses the largest ``exp_avg_sq`` so far, uncorrected."""
    exp_avg, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2)
    max_exp_avg_sq = maximum(max_exp_avg_sq, exp_avg_sq)
    param = param - (step_size * exp_avg) / (np.sqrt(max_exp_avg_sq) * root_correction + eps)
    return param, exp_avg, exp_avg_sq, max_exp_avg_sq
