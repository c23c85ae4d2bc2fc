"""Adadelta (arXiv 1212.5701)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .pipeline import rule


@rule("adadelta")
def adadelta(
    param: Array, grad: Array, square_avg: Array, acc_delta: Array, *, lr: Any, rho: Any, one_minus_rho: Any, eps: Any
) -> tuple[Array, ...]:
    square_avg = rho * square_avg + (one_minus_rho * grad) * grad
    delta = np.sqrt((acc_delta + eps) / (square_avg + eps)) * grad
    acc_delta = rho * acc_delta + (one_minus_rho * delta) * delta
    return param - lr * delta, square_avg, acc_delta
