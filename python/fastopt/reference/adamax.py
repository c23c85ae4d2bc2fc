"""Adamax (arXiv 1412.6980, section 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .math import lerp, maximum
from .pipeline import rule


@rule("adamax")
def adamax(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_inf: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    step_size: Any,
    eps: Any,
) -> tuple[Array, ...]:
    """``step_size`` is lr / (1 - beta1^t)."""
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_inf = maximum(beta2 * exp_inf, np.abs(grad) + eps)
    return param - (step_size * exp_avg) / exp_inf, exp_avg, exp_inf
