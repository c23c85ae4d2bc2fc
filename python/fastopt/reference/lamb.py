"""LAMB (arXiv 1904.00962)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .adam import moments
from .half import Array
from .pipeline import rule


def _moved(param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, **c: Any) -> tuple[Array, ...]:
    """Returns the direction, which includes the decay, so that its norm does too, and the states."""
    averages = c["one_minus_beta1"], c["beta2"], c["one_minus_beta2"]
    exp_avg, exp_avg_sq = moments(grad, exp_avg, exp_avg_sq, *averages)
    direction = (c["correction"] * exp_avg) / (np.sqrt(exp_avg_sq) * c["root_correction"] + c["eps"])
    if c["weight_decay"] != 0:
        direction = direction + c["weight_decay"] * param
    return direction, exp_avg, exp_avg_sq


def _scale(param_squares: float, direction_squares: float, n: int, *, lr: float, adapts: float, **_: float) -> float:
    """Returns lr times the trust ratio, which is 1 where either norm is 0 or NaN."""
    if adapts == 0 or not (param_squares > 0 and direction_squares > 0):
        return lr
    with np.errstate(all="ignore"):
        return float(lr * (np.sqrt(param_squares) / np.sqrt(direction_squares)))


@rule("lamb", measured=_moved, scale=_scale)
def lamb(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
    correction: Any,
    root_correction: Any,
    eps: Any,
    weight_decay: Any,
    lr: Any,
    adapts: Any,
    scale: Any,
) -> tuple[Array, ...]:
    """``correction`` is 1 / (1 - beta1^t), ``root_correction`` is 1 / sqrt(1 - beta2^t)."""
    direction, *states = _moved(
        param,
        grad,
        exp_avg,
        exp_avg_sq,
        one_minus_beta1=one_minus_beta1,
        beta2=beta2,
        one_minus_beta2=one_minus_beta2,
        correction=correction,
        root_correction=root_correction,
        eps=eps,
        weight_decay=weight_decay,
    )
    return param - scale * direction, *states
