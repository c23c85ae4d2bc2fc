"""Prodigy (arXiv 2306.06101)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .pipeline import rule


def _measured(param: Array, grad: Array, *states: Array, beta3: Any, s_weight: Any, step_size: Any, **_: Any) -> Any:
    """Returns each element's part in the progress, and in the sum that this is divided by."""
    if step_size == 0:
        return np.zeros_like(param), np.zeros_like(param)
    s, p0 = states[2:]
    return grad * (p0 - param), np.abs(beta3 * s + s_weight * grad)


def _weighted(progress: float, shared: Array, *, step_size: float, d0: float, **_: float) -> Any:
    return shared[0] / d0 * step_size * progress


def _scale(progress: Any, path: Any, shared: Array, **c: float) -> Any:
    """Moves on d, its largest estimate, the numerator and the steps. Returns d, or 0 before the first gradient."""
    if path == 0:
        return 0.0
    d, d_max, numerator, steps = shared
    numerator = c["beta3"] * numerator + progress
    found = c["d_coef"] * numerator / path
    if d == c["d0"] and found > d:
        d = found
    if found > d_max:
        d_max = found
    d = d * c["growth_rate"]
    if not d < d_max:
        d = d_max
    shared[:] = d, d_max, numerator, steps + 1
    return d


@rule("prodigy", measured=_measured, scale=_scale, weighted=_weighted)
def prodigy(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    s: Array,
    p0: Array,
    *,
    beta1: Any,
    grad_weight: Any,
    beta2: Any,
    square_weight: Any,
    beta3: Any,
    s_weight: Any,
    step_size: Any,
    weight_decay: Any,
    eps: Any,
    d0: Any,
    d_coef: Any,
    growth_rate: Any,
    scale: Any,
) -> tuple[Array, ...]:
    """``step_size`` is d lr, with bias correction, and 0 where the group stands still; ``scale`` is the new d."""
    if step_size == 0:
        return param, exp_avg, exp_avg_sq, s, p0
    exp_avg = beta1 * exp_avg + grad_weight * grad
    exp_avg_sq = beta2 * exp_avg_sq + (square_weight * grad) * grad
    s = beta3 * s + s_weight * grad
    if scale != 0:
        direction = exp_avg / (np.sqrt(exp_avg_sq) + scale * eps)
        if weight_decay != 0:
            direction = direction + weight_decay * param
        param = param - step_size * direction
    return param, exp_avg, exp_avg_sq, s, p0
