"""ADOPT (arXiv 2411.02853)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .math import clamp, lerp, maximum
from .pipeline import rule


@rule("adopt", own_decay="shrink")
def adopt(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    first: Any,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    clip: Any,
    lr: Any,
    shrink: Any,
    eps: Any,
) -> tuple[Array, ...]:
    """In the first step ``first`` is 1, ``beta2`` 0 and ``shrink`` 1; only ``exp_avg_sq`` moves, to the square."""
    normed = clamp(grad / maximum(np.sqrt(exp_avg_sq), eps), -clip, clip)
    exp_avg = exp_avg if first != 0 else lerp(exp_avg, normed, one_minus_beta1)
    param = shrink * param - lr * exp_avg
    return param, exp_avg, beta2 * exp_avg_sq + (one_minus_beta2 * grad) * grad
