"""The functions a rule may call, as in ``csrc/math/ieee.h``."""

from __future__ import annotations

from typing import Any

import numpy as np

from .half import Array


def maximum(a: Array, b: Array) -> Array:
    """NaN where either is; ``b`` where they are equal, which tells zeros apart."""
    greater: Array = (a > b) | np.isnan(a)
    return np.where(greater, a, b)


def minimum(a: Array, b: Any) -> Array:
    """NaN where either is; ``b`` where they are equal."""
    return np.where((a < b) | np.isnan(a), a, b)


def clamp(x: Array, low: Any, high: Any) -> Array:
    """Keeps NaN."""
    raised = np.where(x < low, low, x)
    return np.where(raised > high, high, raised)


def lerp(a: Array, b: Array, weight: Any) -> Array:
    """From a to b, exactly b at weight 1: like torch.lerp, from the nearer end."""
    mixed: Array = a + weight * (b - a) if weight < 0.5 else b - (1 - weight) * (b - a)
    return mixed


def sign(x: Array) -> Array:
    """Keeps a zero's sign and NaN."""
    return np.where(x > 0, x.dtype.type(1), np.where(x < 0, x.dtype.type(-1), x))
