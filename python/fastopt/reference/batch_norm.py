"""Batch normalization in NumPy, with the functions of the engine (``csrc/engine/norm/batch_norm.h``)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .half import Array
from .norm_elements import PerChannel, projection
from .norm_operands import numbers, round_into, takes_input, takes_vector
from .norm_sums import Channels, Pairs, join, moments
from .operands import alike


def _taken(input: Tensor, operands: list[Tensor | None], parameters: list[Tensor | None]) -> bool:
    """Whether the engine takes these tensors as they are."""
    types = {torch.float32, input.dtype}
    return (
        takes_input(input)
        and input.ndim >= 2
        and all(alike(tensor, input) for tensor in operands)
        and all(p is None or (takes_vector(p, types) and p.shape == input.shape[1:2]) for p in parameters)
    )


class _Call:
    """One call: the channels of its input, what they are normalized with, and its other operands."""

    def __init__(
        self,
        input: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        activation: str,
        negative_slope: float,
    ) -> None:
        self.channels = Channels.of(input)
        self._weight = numbers(weight, 1.0, self.channels.count)
        self._bias = numbers(bias, 0.0, self.channels.count)
        self._residual = None if residual is None else self.channels.load(residual)
        self._activation = (activation, negative_slope)
        self.x = self.channels.load(input)

    def use(self, statistics: Tensor) -> None:
        mean, inverse_std = statistics[:2].numpy()
        parameters = (self._weight, self._bias)
        self._elements = PerChannel(
            self.x, Channels.spread, (mean, inverse_std), *parameters, *self._activation, self._residual
        )

    def apply(self, out: Tensor) -> None:
        self.channels.store(self._elements.value(), out)

    def entering(self, grad: Tensor) -> Array:
        """Returns the gradient of z."""
        return self._elements.gradient_of_z(self.channels.load(grad))

    def sums(self, entering: Array) -> Pairs:
        """Sums the gradient of z, and its products with x - mean."""
        return self._elements.center.sums(self.channels, entering, self.x)

    def gradient(
        self,
        entering: Array,
        sums: Pairs | None,
        count: float | Array,
        grad_input: Tensor | None,
        grad_residual: Tensor | None,
    ) -> None:
        if grad_residual is not None:
            self.channels.store(entering, grad_residual)
        if grad_input is None:
            return
        lost = None
        if sums is not None:
            weighted = (0.0 + self._weight * sums[0], 0.0 + self._weight * sums[1])  # as a sum over a group starts
            lost = projection(self._elements.inverse_std, self._elements.center.excess, weighted, count)
        self.channels.store(self._elements.gradient(entering, lost), grad_input)


def _finalize_statistics(
    statistics: Tensor,
    pairs: Pairs,
    count: float,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> None:
    mean, squares = pairs
    statistics[0].numpy()[...] = mean
    statistics[1].numpy()[...] = 1 / np.sqrt(squares / count + eps)
    channels = len(mean)
    with np.errstate(all="ignore"):
        unbiased = squares / np.float64(count - 1)
    for running, now in ((running_mean, mean), (running_var, unbiased)):
        if running is not None:
            round_into(running, momentum * now + (1 - momentum) * numbers(running, 0.0, channels))


@np.errstate(all="ignore")
def batch_norm(
    out: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    statistics: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool:
    if not _taken(input, [residual, out], [weight, bias, running_mean, running_var]):
        return False
    if not training and (running_mean is None or running_var is None):
        return False
    channels = input.shape[1]
    if not training:
        statistics[0].numpy()[...] = numbers(running_mean, 0.0, channels)
        statistics[1].numpy()[...] = 1 / np.sqrt(numbers(running_var, 1.0, channels) + eps)
    elif input.numel() == 0:
        statistics.zero_()
    if input.numel() == 0:
        return True
    call = _Call(input, residual, weight, bias, activation, negative_slope)
    if training:
        pairs = moments(call.channels, call.x)
        _finalize_statistics(statistics, pairs, call.channels.elements, running_mean, running_var, momentum, eps)
    call.use(statistics)
    call.apply(out)
    return True


@np.errstate(all="ignore")
def batch_norm_backward(
    grad_input: Tensor | None,
    grad_residual: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    grad: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    batch: bool,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool:
    operands = [grad, residual, grad_input, grad_residual]
    if not _taken(input, operands, [weight, bias, grad_weight, grad_bias]):
        return False
    totals: Pairs = (np.zeros(input.shape[1]), np.zeros(input.shape[1]))
    if input.numel():
        call = _Call(input, residual, weight, bias, activation, negative_slope)
        call.use(statistics)
        entering = call.entering(grad)
        if batch or grad_weight is not None or grad_bias is not None:
            totals = call.sums(entering)
        call.gradient(entering, totals if batch else None, call.channels.elements, grad_input, grad_residual)
    round_into(grad_bias, totals[0])
    round_into(grad_weight, totals[1] * statistics[1].numpy())
    return True


@np.errstate(all="ignore")
def batch_norm_moments(moments_out: Tensor, input: Tensor, threads: int) -> bool:
    if not _taken(input, [], []):
        return False
    moments_out.zero_()
    if input.numel():
        channels = Channels.of(input)
        moments_out.numpy()[...] = moments(channels, channels.load(input))
    return True


def batch_norm_gather_stats(
    statistics: Tensor,
    gathered: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> bool:
    channels = statistics.shape[1]
    joined, count = (np.zeros(channels), np.zeros(channels)), 0.0
    for theirs in gathered.numpy():
        others = float(theirs[-1])
        if others > 0:
            joined = join(joined, count, (theirs[:channels], theirs[channels:-1]), others)
        count += others
    if count > 0:
        _finalize_statistics(statistics, joined, count, running_mean, running_var, momentum, eps)
    else:
        statistics.zero_()
    statistics[2] = count
    return True


@np.errstate(all="ignore")
def batch_norm_apply(
    out: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool:
    if not _taken(input, [residual, out], [weight, bias]):
        return False
    if input.numel():
        call = _Call(input, residual, weight, bias, activation, negative_slope)
        call.use(statistics)
        call.apply(out)
    return True


@np.errstate(all="ignore")
def batch_norm_sums(
    sums_out: Tensor,
    grad: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool:
    if not _taken(input, [grad, residual], [weight, bias]):
        return False
    sums_out.zero_()
    if input.numel():
        call = _Call(input, residual, weight, bias, activation, negative_slope)
        call.use(statistics)
        sums_out.numpy()[...] = call.sums(call.entering(grad))
    return True


@np.errstate(all="ignore")
def batch_norm_gradient(
    grad_input: Tensor | None,
    grad_residual: Tensor | None,
    grad: Tensor,
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    sums: Tensor | None,
    activation: str,
    negative_slope: float,
    threads: int,
) -> bool:
    if not _taken(input, [grad, residual, grad_input, grad_residual], [weight, bias]):
        return False
    if input.numel():
        call = _Call(input, residual, weight, bias, activation, negative_slope)
        call.use(statistics)
        totals: Pairs | None = None if sums is None else (sums[0].numpy(), sums[1].numpy())
        count = 1.0 if sums is None else statistics[2].numpy()
        call.gradient(call.entering(grad), totals, count, grad_input, grad_residual)
    return True
