"""Lion (arXiv 2302.06675)."""

from __future__ import annotations

from typing import Any

from .half import Array
from .math import sign
from .pipeline import rule


@rule("lion")
def lion(
    param: Array,
    grad: Array,
    exp_avg: Array,
    *,
    lr: Any,
    beta1: Any,
    one_minus_beta1: Any,
    beta2: Any,
    one_minus_beta2: Any,
) -> tuple[Array, ...]:
    param = param - lr * sign(beta1 * exp_avg + one_minus_beta1 * grad)
    return param, beta2 * exp_avg + one_minus_beta2 * grad
