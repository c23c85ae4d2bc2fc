"""RMSNorm, LayerNorm and GroupNorm in NumPy: statistics of rows, and of groups of each sample's channels
(``csrc/engine/norm/norm.h``). Groups of short channels are sets of a row whose elements have a weight each."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from . import half
from .half import Array
from .norm_elements import Center, Elements, PerChannel, projected, projection
from .norm_operands import numbers, round_into, takes_input, takes_vector
from .norm_sums import CHUNK, PLANE, Channels, Pairs, column_chunks, moments, sums
from .operands import alike
from .step import flat


class _Call:
    """Normalizes ``x``, the flat values of a tensor like ``input``, or finds gradients of that."""

    def __init__(
        self,
        x: Array,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        kind: str,
        size: int,
        activation: str,
        negative_slope: float,
    ) -> None:
        self.kind, self.size = kind, size
        self.x = self.shape(x, input, size)
        self.weight, self.bias, self.dtype = weight, bias, input.dtype
        self.activation = (activation, negative_slope)

    @abstractmethod
    def shape(self, x: Array, input: Tensor, size: int) -> Array: ...

    @abstractmethod
    def spreads(self) -> Pairs:
        """Returns mean, and squared deviations divided by their number, of each set."""

    @abstractmethod
    def value(self, statistics: Pairs) -> Array: ...

    @abstractmethod
    def gradients(self, grad: Array, statistics: Pairs) -> tuple[Array, Array, Array]:
        """Returns the gradients of x, weight and bias; those two in float64."""


class _RowElements(Elements):
    """Elements of rows: each set has a center, a factor and an offset, each column a weight and a bias."""

    def __init__(self, call: _Rows, statistics: Pairs, rounded: torch.dtype | None) -> None:
        super().__init__(call.x, *call.activation)
        mean, inverse_std = (numbers[:, None] for numbers in statistics)
        self.center = Center(mean[:, 0], self.x.dtype)
        self._factor = inverse_std.astype(self.x.dtype)
        self._deviation = self.x - mean.astype(self.x.dtype)
        self.normalized: Array = self._deviation * self._factor
        if call.centered:
            offset = 0.0 - self.center.excess[:, None] * inverse_std  # a negation would change the sign of a zero
            self.normalized = self.normalized + offset.astype(self.x.dtype)
        if rounded is not None:
            self.normalized = half.rounded(self.normalized, rounded)
        self._weight, self._bias = call.of_elements(call.weight), call.of_elements(call.bias)

    def z(self) -> Array:
        z: Array = self.normalized if self._weight is None else self.normalized * self._weight
        return z if self._bias is None else z + self._bias

    def weighted(self, of_z: Array) -> Array:
        return of_z if self._weight is None else of_z * self._weight

    def gradient(self, weighted: Array, projection: Pairs) -> Array:
        mean, slope = (numbers[:, None].astype(self.x.dtype) for numbers in projection)
        return projected(weighted * self._factor, self._deviation, mean, slope)


class _Rows(_Call):
    """``x`` is (sets, elements of a set)."""

    def shape(self, x: Array, input: Tensor, size: int) -> Array:
        self.centered = self.kind in ("layer", "group")
        parameters = input.shape[1] if self.kind == "group" else size
        self._sets = size if self.kind == "group" else 1  # of a row
        self._repeat = (
            input.numel() // (len(input) * parameters) if self.kind == "group" else 1
        )  # neighbours that share a parameter
        length = parameters * self._repeat // self._sets
        self._channels = Channels(1, input.numel() // length, length, planes=True)
        return x.reshape(-1, length)

    def of_elements(self, parameter: Tensor | None) -> Array | None:
        """Returns a weight or bias for each element of a row, (sets or 1, elements of a set)."""
        if parameter is None:
            return None
        row = np.repeat(half.load(flat(parameter)), self._repeat).reshape(self._sets, -1)
        return np.tile(row, (len(self.x) // self._sets, 1))

    def spreads(self) -> Pairs:
        rows, zeros = self.x[None], np.zeros(len(self.x))
        if self.centered:
            mean, squares = moments(self._channels, rows)
        else:
            mean, squares = zeros, sums(self._channels, rows, rows, zeros.astype(rows.dtype))[1]
        return mean, squares / self.x.shape[1]

    def value(self, statistics: Pairs) -> Array:
        return _RowElements(self, statistics, self.dtype if self.kind == "rms_rounded" else None).value()

    def gradients(self, grad: Array, statistics: Pairs) -> tuple[Array, Array, Array]:
        elements, length = _RowElements(self, statistics, None), self.x.shape[1]
        of_z = elements.gradient_of_z(grad.reshape(self.x.shape))
        weighted = elements.weighted(of_z)
        if self.centered:
            both = elements.center.sums(self._channels, weighted[None], self.x[None])
            lost = projection(statistics[1], elements.center.excess, both, length)
        else:
            zeros = np.zeros(len(self.x))
            _, products = sums(self._channels, weighted[None], self.x[None], elements.center.rounded)
            lost = (zeros, projection(statistics[1], zeros, (zeros, products), length)[1])
        return elements.gradient(weighted, lost), self._over(of_z * elements.normalized), self._over(of_z)

    def _over(self, values: Array) -> Array:
        """Sums over the rows, and over the elements that share a parameter."""
        values = values.reshape(len(self.x) // self._sets, -1)
        rows, length = values.shape
        total = np.zeros(length)
        for own in column_chunks(values, max(4, math.ceil(CHUNK / length), math.ceil(rows / 64))):
            total = total + own
        of_parameter = np.zeros(length // self._repeat)
        for neighbour in total.reshape(-1, self._repeat).T:
            of_parameter = of_parameter + neighbour
        return of_parameter


class _Groups(_Call):
    def shape(self, x: Array, input: Tensor, size: int) -> Array:
        samples, channels = input.shape[:2]
        inner = _inner(input)
        x = x.reshape(samples, -1, channels, inner)
        of_group = channels // size * inner
        self._groups = Channels(x.shape[1], size, of_group, planes=x.shape[1] == 1)
        self._channels = Channels(*x.shape[1:])
        return x

    def spreads(self) -> Pairs:
        groups = self._groups
        found = [moments(groups, sample.reshape(groups.outer, groups.count, groups.inner)) for sample in self.x]
        mean, squares = (np.concatenate(of_samples) for of_samples in zip(*found, strict=True))
        return mean, squares / groups.elements

    def _elements(self, statistics: Pairs) -> PerChannel:
        channels = self._channels.count
        mean, inverse_std = (np.repeat(n.reshape(-1, self.size), channels // self.size, axis=1) for n in statistics)
        weight, bias = numbers(self.weight, 1.0, channels), numbers(self.bias, 0.0, channels)
        return PerChannel(self.x, lambda n: n[..., None, :, None], (mean, inverse_std), weight, bias, *self.activation)

    def value(self, statistics: Pairs) -> Array:
        return self._elements(statistics).value()

    def gradients(self, grad: Array, statistics: Pairs) -> tuple[Array, Array, Array]:
        elements, channels = self._elements(statistics), self._channels.count
        of_z = elements.gradient_of_z(grad.reshape(self.x.shape))
        of_weight, of_bias = np.zeros(channels), np.zeros(channels)
        weight = numbers(self.weight, 1.0, channels)
        lost = []
        means, inverse_stds = (n.reshape(-1, self.size) for n in statistics)
        for sample, x, mean, inverse_std in zip(of_z, self.x, means, inverse_stds, strict=True):
            of_channels = channels // self.size
            total, products = Center(np.repeat(mean, of_channels), x.dtype).sums(self._channels, sample, x)
            of_weight = of_weight + products * np.repeat(inverse_std, of_channels)
            of_bias = of_bias + total
            both = tuple(self._of_groups(weight * of_channel) for of_channel in (total, products))
            found = projection(inverse_std, Center(mean, x.dtype).excess, (both[0], both[1]), self._groups.elements)
            lost.append([np.repeat(n, of_channels) for n in found])
        both_lost = np.array(lost).transpose(1, 0, 2)
        return elements.gradient(of_z, (both_lost[0], both_lost[1])), of_weight, of_bias

    def _of_groups(self, of_channels: Array) -> Array:
        total = np.zeros(self.size)
        for one_of_each in of_channels.reshape(self.size, -1).T:
            total = total + one_of_each
        return total


def _inner(input: Tensor) -> int:
    """The number of neighbours in memory that belong to one channel."""
    return input.numel() // len(input) if input.shape[1] == 1 else input.stride(1)


def _taken(kind: str, size: int, input: Tensor, operands: list[Tensor | None], parameters: list[Tensor | None]) -> bool:
    """Whether the engine takes these tensors as they are."""
    if not (takes_input(input) and size > 0 and all(alike(tensor, input) for tensor in operands)):
        return False
    if kind == "group":
        fits = input.ndim >= 2 and input.shape[1] % size == 0 and (input.numel() == 0 or _follow(input))
        count = input.shape[1] if fits else 0
    else:
        fits = input.is_contiguous() and input.numel() % size == 0
        fits = fits and (kind == "layer" or all(bias is None for bias in parameters[1::2]))
        count = size
    widened = {torch.float32} if input.dtype in (torch.bfloat16, torch.float16) else set()
    types = {input.dtype, *widened}
    return fits and all(p is None or (takes_vector(p, types) and p.numel() == count) for p in parameters)


def _follow(input: Tensor) -> bool:
    """Whether samples follow each other in memory, and in them channels or, channels-last, their elements."""
    of_sample, inner = input.numel() // len(input), _inner(input)
    outermost = len(input) == 1 or input.stride(0) == of_sample
    return outermost and (inner < PLANE or inner * input.shape[1] == of_sample)


def _call(kind: str, input: Tensor) -> type[_Call]:
    short = kind == "group" and input.is_contiguous() and input.numel() // (len(input) * input.shape[1]) < PLANE
    return _Rows if short or kind != "group" else _Groups


@np.errstate(all="ignore")
def norm(
    out: Tensor,
    sum: Tensor | None,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    kind: str,
    size: int,
    eps: float,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool:
    if (sum is None) != (residual is None):
        return False
    if not _taken(kind, size, input, [out, sum, residual], [weight, bias]):
        return False
    if input.numel() == 0:
        return True
    x = half.load(flat(input))
    if sum is not None and residual is not None:
        half.store(x + half.load(flat(residual)), flat(sum))
        x = half.load(flat(sum))
    call = _call(kind, input)(x, input, weight, bias, kind, size, activation, negative_slope)
    mean, variance = call.spreads()
    both = (mean, 1 / np.sqrt(variance + eps))
    statistics.numpy()[...] = both
    half.store(call.value(both).reshape(-1), flat(out))
    return True


@np.errstate(all="ignore")
def norm_backward(
    grad_input: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    grad: Tensor,
    grad_sum: Tensor | None,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    kind: str,
    size: int,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool:
    if not _taken(kind, size, input, [grad, grad_sum, grad_input], [weight, bias, grad_weight, grad_bias]):
        return False
    if input.numel() == 0:
        for empty in (grad_weight, grad_bias):
            if empty is not None:
                empty.zero_()
        return True
    call = _call(kind, input)(half.load(flat(input)), input, weight, bias, kind, size, activation, negative_slope)
    mean, inverse_std = statistics.numpy()
    of_input, of_weight, of_bias = call.gradients(half.load(flat(grad)), (mean, inverse_std))
    if grad_input is not None:
        values = of_input.reshape(-1)
        half.store(values if grad_sum is None else values + half.load(flat(grad_sum)), flat(grad_input))
    round_into(grad_weight, of_weight)
    round_into(grad_bias, of_bias)
    return True
