"""The functions a rule may call, as in ``csrc/math/ieee.h``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array


def maximum(a: Array, b: Array) -> Array:
    """Returns the larger: NaN where either is NaN, and ``b`` where they are equal, which matters for signed zeros."""
    greater: Array = (a > b) | np.isnan(a)
    return np.where(greater, a, b)


def minimum(a: Array, b: Any) -> Array:
    """Returns the smaller: NaN where either is NaN, and ``b`` where they are equal."""
    return np.where((a < b) | np.isnan(a), a, b)


def clamp(x: Array, low: Any, high: Any) -> Array:
    """Clamps, and keeps NaN."""
    raised = np.where(x < low, low, x)
    return np.where(raised > high, high, raised)


def lerp(a: Array, b: Array, weight: Any) -> Array:
    """Goes from a to b, exactly to b at weight 1. Like torch.lerp it starts from the nearer end."""
    mixed: Array = a + weight * (b - a) if weight < 0.5 else b - (1 - weight) * (b - a)
    return mixed


def sign(x: Array) -> Array:
    """Returns 1 or -1, and keeps signed zeros and NaN."""
    return np.where(x > 0, x.dtype.type(1), np.where(x < 0, x.dtype.type(-1), x))
