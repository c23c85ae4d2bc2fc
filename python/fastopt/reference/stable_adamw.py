"""StableAdamW (arXiv 2304.13013)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .adam import moments
from .half import Array
from .math import maximum
from .pipeline import rule


def _measured(param: Array, grad: Array, exp_avg_sq: Array, exp_avg: Array, **c: Any) -> tuple[Array, ...]:
    """Returns the gradient over the root of the second moment."""
    averages = c["one_minus_beta1"], c["beta2"], c["one_minus_beta2"]
    _, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, *averages)
    return (grad / maximum(np.sqrt(exp_avg_sq), c["eps"]),)


def _scale(param_squares: float, measured_squares: float, n: int, *, lr: float, **_: float) -> float:
    """Returns the learning rate of the tensor."""
    rms = math.sqrt(measured_squares / n)
    return lr / (rms if not rms < 1.0 else 1.0)  # NaN where the sum is


@rule("stable_adamw", measured=_measured, scale=_scale)
def stable_adamw(
    param: Array,
    grad: Array,
    exp_avg_sq: Array,
    exp_avg: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    eps: Any,
    weight_decay: Any,
    lr: Any,
    scale: Any,
) -> tuple[Array, ...]:
    """The betas are beta * (1 - beta^(t - 1)) / (1 - beta^t)."""
    exp_avg, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2)
    direction = exp_avg / (np.sqrt(exp_avg_sq) + eps)
    if weight_decay != 0:
        direction = direction + weight_decay * param
    return param - scale * direction, exp_avg_sq, exp_avg
