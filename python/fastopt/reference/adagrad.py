"""Adagrad (Duchi et al., JMLR 12, 2011)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .pipeline import rule


@rule("adagrad")
def adagrad(param: Array, grad: Array, sum: Array, *, step_size: Any, eps: Any, eps_inside: Any) -> tuple[Array, ...]:
    """``step_size`` is lr / (1 + (t - 1) * lr_decay)."""
    sum = sum + grad * grad
    return param - (step_size * grad) / (np.sqrt(sum + eps_inside) + eps), sum
