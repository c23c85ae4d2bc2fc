"""Schedule-Free AdamW and SGD (arXiv 2405.15682)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .math import lerp
from .pipeline import rule


def move(y: Array, z: Array, direction: Array, mix: Any, y_step: Any, lr: Any) -> tuple[Array, Array]:
    """``mix`` is the weight of the new z in the average, ``y_step`` is lr * (beta * (1 - mix) - 1)."""
    return lerp(y, z, mix) + y_step * direction, z - lr * direction


@rule("schedule_free_adamw")
def schedule_free_adamw(
    param: Array,
    grad: Array,
    z: Array,
    exp_avg_sq: Array,
    *,
    beta2: Any,
    one_minus_beta2: Any,
    root_correction: Any,
    eps: Any,
    weight_decay: Any,
    mix: Any,
    y_step: Any,
    lr: Any,
) -> tuple[Array, ...]:
    """``root_correction`` is 1 / sqrt(1 - beta2^k)."""
    exp_avg_sq = beta2 * exp_avg_sq + (one_minus_beta2 * grad) * grad
    direction = grad / (np.sqrt(exp_avg_sq) * root_correction + eps)
    if weight_decay != 0:
        direction = direction + weight_decay * param
    return *move(param, z, direction, mix, y_step, lr), exp_avg_sq


@rule("schedule_free_sgd")
def schedule_free_sgd(param: Array, grad: Array, z: Array, *, mix: Any, y_step: Any, lr: Any) -> tuple[Array, ...]:
    return move(param, z, grad, mix, y_step, lr)
