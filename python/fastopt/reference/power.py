"""x^p from IEEE operations only, as in ``csrc/math/power.h``: libm's pow differs between machines."""

from __future__ import annotations

import numpy as np

from .half import Array

_ROOT_BITS = np.uint64(0x3FE6A09E667F3BCD)  # of sqrt(1/2)
_MANTISSA = np.uint64(0xFFFFFFFFFFFFF)


def _log_2(x: Array) -> Array:
    """Returns exponent + log2(mantissa) of positive, finite, normal x, with the mantissa in [sqrt(1/2), sqrt(2))."""
    shifted = x.view(np.uint64) - _ROOT_BITS
    exponent = (shifted.view(np.int64) >> 52).astype(np.float64)
    mantissa = ((shifted & _MANTISSA) + _ROOT_BITS).view(np.float64)
    s = (mantissa - 1) / (mantissa + 1)
    s2 = s * s
    series = np.full_like(x, 1.0 / 23)  # atanh(s) / s
    for odd in range(21, 0, -2):
        series = series * s2 + 1.0 / odd
    result: Array = exponent + s * series * float.fromhex("0x1.71547652b82fep+1")  # 2 / ln(2)
    return result


def _exp_2(y: Array) -> Array:
    """Returns 2^y for y in [-1021, 1023]."""
    whole = (y + float.fromhex("0x1.8p52")) - float.fromhex("0x1.8p52")  # rounded to nearest
    x = (y - whole) * float.fromhex("0x1.62e42fefa39efp-1")  # ln(2)
    series = np.ones_like(y)
    for n in range(14, 0, -1):
        series = series * x / n + 1
    scale = ((whole.astype(np.int64) + 1023) << 52).view(np.float64)
    result: Array = series * scale
    return result


def power(x: Array, p: float) -> Array:
    """Returns x^p for x >= 0 and p != 0. Results beyond the normal range of float64 become 0 or infinite."""
    x = np.ascontiguousarray(x)
    normal = (x >= 2.0**-1022) & np.isfinite(x)
    y = p * _log_2(np.where(normal, x, 1.0))
    inside = _exp_2(np.clip(y, -1021.0, 1023.0))
    result = np.where(y > 1023, np.inf, np.where(y < -1021, 0.0, inside))
    edge = np.where((x > 1) == (p > 0), np.inf, 0.0)  # for 0 and infinity
    return np.where(normal, result, np.where(np.isnan(x), x, edge))
