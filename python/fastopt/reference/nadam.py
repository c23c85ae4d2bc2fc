"""NAdam (Dozat, ICLR workshop 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .adam import moments
from .half import Array
from .pipeline import rule


@rule("nadam")
def nadam(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    grad_step: Any,
    momentum_step: Any,
    root_correction: Any,
    eps: Any,
) -> tuple[Array, ...]:
    """``grad_step`` and ``momentum_step`` hold lr and the products of mu, ``root_correction`` is
    1 / sqrt(1 - beta2^t).
    """
    exp_avg, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2)
    direction = grad_step * grad + momentum_step * exp_avg
    return param - direction / (np.sqrt(exp_avg_sq) * root_correction + eps), exp_avg, exp_avg_sq
