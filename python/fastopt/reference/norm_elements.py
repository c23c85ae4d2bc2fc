"""The elements of a normalization, once the statistics are known (``csrc/norm/formulas.h``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .activations import ACTIVATIONS
from .half import Array
from .norm_sums import Channels, Pairs, sums


class Elements:
    """Values of x in the compute type, and what follows their normalization, z."""

    def __init__(self, x: Array, activation: str, negative_slope: float) -> None:
        self.x = x
        self._activation, self._negative_slope = ACTIVATIONS[activation], negative_slope

    def z(self) -> Array:
        raise NotImplementedError

    def value(self) -> Array:
        return self._activation.value(self.z(), self._negative_slope)

    def gradient_of_z(self, grad: Array) -> Array:
        if self._activation is ACTIVATIONS["identity"]:
            return grad
        return self._activation.gradient(self.z(), grad, self._negative_slope)


class Center:
    """Means, as numbers of the compute type and what that rounding leaves out."""

    def __init__(self, mean: Array, number: Any) -> None:
        self.rounded = mean.astype(number)
        self.excess = mean - self.rounded.astype(np.float64)

    def sums(self, channels: Channels, grad: Array, x: Array) -> Pairs:
        """Sums gradients, and their products with x - mean."""
        total, products = sums(channels, grad, x, self.rounded)
        return total, products - self.excess * total


class PerChannel(Elements):
    """Elements with one mean, standard deviation, weight and bias per channel: float64, in any shape that ``spread``
    takes to that of ``x``. The coefficients are rounded; the offset makes up for rounding the mean to the center."""

    def __init__(
        self,
        x: Array,
        spread: Callable[[Array], Array],
        statistics: Pairs,
        weight: Array,
        bias: Array,
        activation: str,
        negative_slope: float,
        residual: Array | None = None,
    ) -> None:
        super().__init__(x, activation, negative_slope)
        mean, inverse_std = statistics
        scale = weight * inverse_std
        self._spread, self.inverse_std, self.center = spread, inverse_std, Center(mean, x.dtype)
        self._deviation = x - spread(self.center.rounded)
        self._scale = spread(scale.astype(x.dtype))
        self._offset = spread((bias - self.center.excess * scale).astype(x.dtype))
        self._residual = residual

    def z(self) -> Array:
        z = self._deviation * self._scale + self._offset
        return z if self._residual is None else z + self._residual

    def gradient(self, of_z: Array, projection: Pairs | None) -> Array:
        """Returns the gradient of x. Without a projection, statistics do not depend on x."""
        scaled = of_z * self._scale
        if projection is None:
            return scaled
        mean, slope = (self._spread(numbers.astype(of_z.dtype)) for numbers in projection)
        return projected(scaled, self._deviation, mean, slope)


def projection(inverse_std: Array, excess: Array, sums: Pairs, count: float | Array) -> Pairs:
    """Returns what a gradient loses because mean and standard deviation depend on x: a mean, and a slope along x.
    The sums are those of gradients times weights."""
    slope = inverse_std * inverse_std * inverse_std * sums[1] / count
    return inverse_std * sums[0] / count - excess * slope, slope


def projected(scaled: Array, deviation: Array, mean: Array | float, slope: Array) -> Array:
    gradient: Array = (scaled - mean) - deviation * slope
    return gradient
