"""Rprop (Riedmiller and Braun, 1993)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array
from .math import clamp
from .pipeline import rule


@rule("rprop")
def rprop(
    param: Array,
    grad: Array,
    prev: Array,
    step_size: Array,
    *,
    eta_minus: Any,
    eta_plus: Any,
    step_size_min: Any,
    step_size_max: Any,
) -> tuple[Array, ...]:
    agreement = grad * prev
    moved = np.where(agreement > 0, step_size * eta_plus, step_size)
    moved = np.where(agreement < 0, step_size * eta_minus, moved)
    step_size = clamp(moved, step_size_min, step_size_max)
    prev = np.where(agreement < 0, param.dtype.type(0), grad)
    direction = np.where(prev > 0, param.dtype.type(1), np.where(prev < 0, param.dtype.type(-1), param.dtype.type(0)))
    return param - direction * step_size, prev, step_size
