"""The norms of single samples in torch's own operations: not fast, but differentiable any number of times. In float64,
except where a compiler fuses them (``inductor``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..activations import FUNCTIONS, through
from ..dense import Maybe
from .call import Call, Operands


def by_sets(call: Call, values: Tensor) -> Tensor:
    """Returns values, shaped like an input, as rows, or with a dimension of groups before that of channels."""
    if call.kind == "group":
        samples, channels, *others = values.shape
        return values.reshape(samples, call.size, channels // call.size, *others)
    return values.reshape(call.sets(values), call.size)


def mean_of_sets(call: Call, values: Tensor) -> Tensor:
    """Returns the means of what :func:`by_sets` returned, in a shape that broadcasts to it."""
    return values.mean(list(range(2 if call.kind == "group" else 1, values.ndim)), keepdim=True)


def along(call: Call, parameter: Tensor, values: Tensor) -> Tensor:
    """Returns weight or bias, in the type of ``values``, as a tensor that broadcasts to an input."""
    parameter = parameter.to(values.dtype)
    return parameter.reshape(-1, *[1] * (values.ndim - 2)) if call.kind == "group" else parameter


def linear(call: Call, x_hat: Tensor, weight: Maybe, bias: Maybe) -> Tensor:
    """Returns z, which goes into the activation."""
    z = x_hat if weight is None else x_hat * along(call, weight, x_hat)
    return z if bias is None else z + along(call, bias, x_hat)


def normalized(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what :func:`by_sets` returns, normalized, and of each set the mean and the inverse of the deviation:
    differentiable functions of the input."""
    values = by_sets(call, x)
    mean = mean_of_sets(call, values)
    deviation = values - mean if call.centers else values
    inverse_std = torch.rsqrt(mean_of_sets(call, deviation * deviation) + call.eps)
    return deviation * inverse_std, mean if call.centers else torch.zeros_like(mean), inverse_std


def activated(call: Call, x_hat: Tensor, weight: Maybe, bias: Maybe, dtype: torch.dtype) -> Tensor:
    """Returns the result from normalized values in the shape of the input."""
    if call.kind == "rms_rounded":
        x_hat = x_hat.to(dtype).to(x_hat.dtype)
    return FUNCTIONS[call.activation](linear(call, x_hat, weight, bias), call.negative_slope).to(dtype)


def results(call: Call, statistics: Tensor, input: Tensor, weight: Maybe, bias: Maybe) -> tuple[Tensor, Tensor]:
    """Returns the result, and ``input``, which is the sum where there is a residual."""
    x_hat, _, _ = normalized(call, input.double())
    return activated(call, x_hat.reshape(input.shape), weight, bias, input.dtype), input


def forward(call: Call, operands: Operands) -> tuple[Tensor, Tensor]:
    """Returns the result, and what was normalized."""
    input, residual, weight, bias = operands
    total = input if residual is None else input + residual
    return results(call, total, total, weight, bias)


def by_torch(call: Call, operands: Operands) -> tuple[Tensor, Tensor]:
    """Runs a call by torch's operators, which every exporter knows."""
    input, residual, weight, bias = operands
    kinds = {p.dtype for p in (weight, bias) if p is not None}
    if call.kind == "rms_rounded" or len(kinds) > 1 or not kinds <= {input.dtype}:
        return forward(call, operands)
    x = input if residual is None else input + residual
    return FUNCTIONS[call.activation](_torchs(call, x, weight, bias), call.negative_slope), x


def _torchs(call: Call, x: Tensor, weight: Maybe, bias: Maybe) -> Tensor:
    # torch.nn.functional's group_norm asks for sizes, of which a trace by torch.jit warns.
    if call.kind == "group":
        return torch.group_norm(x, call.size, weight, bias, call.eps, torch.backends.cudnn.enabled)
    given = next((p for p in (weight, bias) if p is not None), None)
    rows = x.reshape(-1, call.size) if given is None else x
    shape = [call.size] if given is None else list(given.shape)
    if call.kind == "rms":
        z = F.rms_norm(rows, shape, weight, call.eps)
    else:
        z = F.layer_norm(rows, shape, weight, bias, call.eps)
    return z.view_as(x) if given is None else z


def tangents(call: Call, primals: Sequence[Maybe], given: Sequence[Maybe]) -> tuple[Tensor, Maybe]:
    """Returns the tangents of result and sum from those of input, residual, weight and bias."""
    input, residual, weight, bias = primals
    of_input, of_residual, of_weight, of_bias = given
    assert input is not None
    total = input if residual is None else input + residual
    rows, _, inverse_std = normalized(call, total.double())
    x_hat = rows.reshape(input.shape)
    change = torch.zeros_like(rows)
    of_both = [t for t in (of_input, of_residual) if t is not None]
    of_sum = sum(of_both[1:], of_both[0]) if of_both else None
    if of_sum is not None:
        change = by_sets(call, of_sum.double())
        if call.centers:
            change = change - mean_of_sets(call, change)
        change = (change - rows * mean_of_sets(call, change * rows)) * inverse_std
    change = change.reshape(input.shape)
    if weight is not None:
        change = change * along(call, weight, x_hat)
    if of_weight is not None:
        change = change + x_hat * along(call, of_weight, x_hat)
    if of_bias is not None:
        change = change + along(call, of_bias, x_hat)
    z = partial(linear, call, x_hat, weight, bias)
    return through(call.activation, change, z, call.negative_slope).to(input.dtype), of_sum
