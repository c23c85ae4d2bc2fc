"""Adan (arXiv 2208.06677)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .math import lerp
from .pipeline import rule


@rule("adan")
def adan(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_diff: Array,
    exp_avg_sq: Array,
    neg_pre_grad: Array,
    *,
    first: Any,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    beta3: Any,
    one_minus_beta3: Any,
    step_size: Any,
    diff_step: Any,
    root_correction: Any,
    eps: Any,
    shrink: Any,
) -> tuple[Array, ...]:
    """``first`` is 1 in the first step, ``step_size`` is lr / (1 - beta1^t), ``diff_step`` lr * beta2 / (1 - beta2^t),
    ``root_correction`` 1 / sqrt(1 - beta3^t), ``shrink`` 1 / (1 + lr * weight_decay), or 1.
    """
    diff = np.zeros_like(grad) if first != 0 else grad + neg_pre_grad
    ahead = grad + beta2 * diff
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_diff = lerp(exp_avg_diff, diff, one_minus_beta2)
    exp_avg_sq = beta3 * exp_avg_sq + (one_minus_beta3 * ahead) * ahead
    direction = step_size * exp_avg + diff_step * exp_avg_diff
    param = shrink * (param - direction / (np.sqrt(exp_avg_sq) * root_correction + eps))
    return param, exp_avg, exp_avg_diff, exp_avg_sq, -grad
