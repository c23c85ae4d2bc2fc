"""e^x and the normal distribution from IEEE operations only, as in ``csrc/math/exponential.h``: libm's functions differ
between machines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .half import Array

_hex = float.fromhex
_LOG2_E = _hex("0x1.71547652b82fep0")

# By type: the ends of the range, a summand that rounds to a whole number, ln(2) in two parts, bits of the mantissa,
# bias of the exponent, the integer type of that size, terms of the series.
_EXPONENTIAL = {
    np.dtype(np.float32): (-87, 88, _hex("0x1.8p23"), _hex("0x1.62ep-1"), _hex("0x1.0bfbe8p-15"), 23, 127, np.int32, 7),
    np.dtype(np.float64): (
        *(-708, 709, _hex("0x1.8p52"), _hex("0x1.62e42feep-1"), _hex("0x1.a39ef35793c76p-33"), 52, 1023, np.int64, 14),
    ),
}

# The probability that a normal variable exceeds a >= 0, divided by e^(-a^2/2): a polynomial in (a - 2) / (a + 2).
_TAIL = {
    np.dtype(np.float32): (
        0.168101993,
        -0.250953114,
        0.0900510686,
        0.00198039873,
        -0.00930428383,
        -0.00156565916,
        0.00122527857,
        0.000692746918,
        -5.31684578e-5,
        -0.000175037205,
        -2.08943603e-5,
        2.06639317e-5,
    ),
    np.dtype(np.float64): (
        0.168102001223170815,
        -0.250953111820365952,
        0.0900504506834649311,
        0.00198025015592031424,
        -0.00929698944678791002,
        -0.00156382756262695166,
        0.00119344563803053197,
        0.000684060615171255817,
        0.0000105212810844472484,
        -0.000155052189004824587,
        -0.000080678852519997006,
        -3.21242531890492599e-6,
        0.0000206597771017334192,
        0.0000139257288298810054,
        2.89421389458523989e-6,
        -2.2660392928784309e-6,
        -2.39122441976639314e-6,
        -1.23513580493155394e-6,
        -4.04871040893289575e-7,
        3.81679808027102849e-7,
        7.04897446195007097e-7,
        1.93708617458752066e-7,
        -2.44343032630832375e-7,
        -1.28756301867446851e-7,
        3.10236079420692861e-8,
        2.20403695653555177e-8,
    ),
}


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    number = x.dtype.type
    total = np.full_like(x, number(coefficients[-1]))
    for c in coefficients[-2::-1]:
        total = total * x + number(c)
    return total


def clamp(x: Array, low: float, high: float) -> Array:
    """Clamps, and keeps NaN."""
    number = x.dtype.type
    raised = np.where(x < number(low), number(low), x)
    clamped: Array = np.where(raised > number(high), number(high), raised)
    return clamped


def _parts(x: Array) -> tuple[Array, Array, Array]:
    """Splits x = whole * ln(2) + rest. Returns 2^whole, rest, and (e^rest - 1) / rest."""
    low, high, rounding, ln2, ln2_rest, bits, bias, integer, terms = _EXPONENTIAL[x.dtype]
    number = x.dtype.type
    inside = clamp(x, low, high)
    whole = (inside * number(_LOG2_E) + number(rounding)) - number(rounding)
    exponent = np.where(np.isnan(whole), number(0), whole).astype(np.int32).astype(integer)
    scale = ((exponent + integer(bias)) << integer(bits)).view(x.dtype)
    rest = (inside - whole * number(ln2)) - whole * number(ln2_rest)
    series = [number(1) / number(math.factorial(k)) for k in range(1, terms + 1)]
    return scale, rest, _polynomial(series, rest)


def exponential(x: Array) -> Array:
    scale, rest, series = _parts(x)
    value: Array = (series * rest + x.dtype.type(1)) * scale
    return value


def exponential_less_1(x: Array) -> Array:
    scale, rest, series = _parts(x)
    value: Array = series * rest * scale + (scale - x.dtype.type(1))
    return value


def normal(z: Array) -> tuple[Array, Array]:
    """Returns density and distribution function of the normal distribution."""
    number = z.dtype.type
    a = np.abs(z)
    a = np.where((a < number(1e4)) | np.isnan(a), a, number(1e4))
    bell = exponential(a * a * number(-0.5))
    tail = _polynomial(_TAIL[z.dtype], (a - number(2)) / (a + number(2))) * bell
    return bell * number(0.3989422804014327), np.where(z < 0, tail, number(1) - tail)
