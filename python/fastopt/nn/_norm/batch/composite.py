"""Batch normalization in torch's own operations and float64: not fast, but differentiable any number of times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..activations import FUNCTIONS, through
from ..dense import Maybe, Operands
from .call import Call
from .sync import SumAll


def along(numbers: Tensor, values: Tensor) -> Tensor:
    """Returns one number per channel, in the type of ``values``, as a tensor that broadcasts to them."""
    return numbers.to(values.dtype).reshape(1, -1, *[1] * (values.ndim - 2))


def linear(x_hat: Tensor, residual: Maybe, weight: Maybe, bias: Maybe) -> Tensor:
    """Returns z, which goes into the activation."""
    z = x_hat if weight is None else x_hat * along(weight, x_hat)
    if bias is not None:
        z = z + along(bias, x_hat)
    return z if residual is None else z + residual


def _mean(call: Call, values: Tensor) -> Tensor:
    """Returns the mean of each channel over all processes."""
    dims = [d for d in range(values.ndim) if d != 1]
    total = values.sum(dims, keepdim=True)
    count = torch.full((1,), values.numel() / values.shape[1], dtype=torch.float64, device=values.device)
    if not call.group:
        return total / count
    both = SumAll.apply(torch.cat([total.reshape(-1), count]), call.group)
    return both[:-1].reshape(total.shape) / both[-1]


def _normalized(call: Call, statistics: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the normalized input and the inverse of the standard deviation. With statistics of the batch, both are
    differentiable functions of the input."""
    if not call.batch:
        inverse_std = along(statistics[1], input)
        return (input - along(statistics[0], input)) * inverse_std, inverse_std
    deviation = input - _mean(call, input)
    inverse_std = torch.rsqrt(_mean(call, deviation * deviation) + call.eps)
    return deviation * inverse_std, inverse_std


def forward(
    call: Call,
    statistics: Tensor,
    input: Tensor,
    residual: Maybe,
    weight: Maybe,
    bias: Maybe,
) -> Tensor:
    x_hat, _ = _normalized(call, statistics, input.double())
    z = linear(x_hat, residual, weight, bias)
    return FUNCTIONS[call.activation](z, call.negative_slope).to(input.dtype)


def by_torch(call: Call, operands: Operands) -> Tensor:
    """Runs a call in evaluation by torch's operators, which every exporter knows."""
    input, residual, weight, bias, running_mean, running_var = operands
    z = F.batch_norm(input, running_mean, running_var, weight, bias, False, 0.0, call.eps)
    return FUNCTIONS[call.activation](z if residual is None else z + residual, call.negative_slope)


def tangent(
    call: Call,
    statistics: Tensor,
    primals: Sequence[Maybe],
    tangents: Sequence[Maybe],
) -> Tensor:
    """Returns the tangent of the result from the tangents of input, residual, weight and bias."""
    input, residual, weight, bias = primals
    of_input, of_residual, of_weight, of_bias = tangents
    assert input is not None
    x_hat, inverse_std = _normalized(call, statistics, input.double())
    change = torch.zeros_like(x_hat)
    if of_input is not None:
        change = of_input.double()
        if call.batch:
            change = change - _mean(call, change)
            change = change - x_hat * _mean(call, change * x_hat)
        change = change * inverse_std
    if weight is not None:
        change = change * along(weight, x_hat)
    if of_weight is not None:
        change = change + x_hat * along(of_weight, x_hat)
    if of_bias is not None:
        change = change + along(of_bias, x_hat)
    if of_residual is not None:
        change = change + of_residual
    z = partial(linear, x_hat, residual, weight, bias)
    return through(call.activation, change, z, call.negative_slope).to(input.dtype)
