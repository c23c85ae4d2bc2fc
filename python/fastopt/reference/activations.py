"""Activations, as in ``csrc/norm/activations.h``: the value at z, and the gradient that passes through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .exponential import clamp, exponential, exponential_less_1, normal
from .half import Array


class Activation(NamedTuple):
    value: Callable[[Array, float], Array]
    gradient: Callable[[Array, Array, float], Array]


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z, _: z, lambda z, grad, _: grad),
    "relu": Activation(
        lambda z, _: np.where(z <= 0, z.dtype.type(0), z),
        lambda z, grad, _: np.where(z <= 0, z.dtype.type(0), grad),
    ),
    "relu6": Activation(
        lambda z, _: clamp(z, 0, 6),
        lambda z, grad, _: np.where((z <= 0) | (z >= 6), z.dtype.type(0), grad),
    ),
    "leaky_relu": Activation(
        lambda z, negative_slope: np.where(z > 0, z, z * z.dtype.type(negative_slope)),
        lambda z, grad, negative_slope: np.where(z > 0, grad, grad * z.dtype.type(negative_slope)),
    ),
    "elu": Activation(
        lambda z, _: np.where(z > 0, z, exponential_less_1(z)),
        lambda z, grad, _: np.where(z > 0, grad, grad * exponential(z)),
    ),
    "silu": Activation(lambda z, _: z / (z.dtype.type(1) + exponential(-z)), lambda z, grad, _: grad * _silu_slope(z)),
    "gelu": Activation(lambda z, _: z * normal(z)[1], lambda z, grad, _: grad * _gelu_slope(z)),
    "hardswish": Activation(
        lambda z, _: z * clamp(z + z.dtype.type(3), 0, 6) * (z.dtype.type(1) / z.dtype.type(6)),
        lambda z, grad, _: _hardswish_gradient(z, grad),
    ),
}


def _silu_slope(z: Array) -> Array:
    one = z.dtype.type(1)
    sigmoid = one / (one + exponential(-z))
    slope: Array = sigmoid * (one + z * (one - sigmoid))
    return slope


def _gelu_slope(z: Array) -> Array:
    density, below = normal(z)
    slope: Array = below + clamp(z, -1e4, 1e4) * density
    return slope


def _hardswish_gradient(z: Array, grad: Array) -> Array:
    number = z.dtype.type
    inside = grad * (z * (number(1) / number(3)) + number(0.5))
    gradient: Array = np.where(z >= 3, grad, np.where(z <= -3, number(0), inside))
    return gradient
