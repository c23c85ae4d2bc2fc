"""The norms of single samples in operations that torch's inductor fuses with their neighbours."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...._compiler import constant
from ..activations import through
from ..dense import Maybe, Wanted
from ..inductor import enter, wide
from ..operators import Results, without_none
from .call import Call
from .composite import activated, along, by_sets, linear, mean_of_sets, normalized


def laid_out(call: Call, values: Tensor) -> Tensor:
    """Returns values in the layout that results have."""
    if call.takes(values):
        return values
    dense = values.clone()
    return dense if call.takes(dense) else dense.contiguous()


def forward(input: Tensor, residual: Maybe, weight: Maybe, bias: Maybe, *options: Any) -> Results:
    call = Call(*options)
    total = laid_out(call, input if residual is None else input + residual)
    x_hat, mean, inverse_std = normalized(call, wide(total))
    out = activated(call, x_hat.reshape(input.shape), weight, bias, input.dtype)
    statistics = torch.stack([mean.reshape(-1), inverse_std.reshape(-1)])
    return out, input.new_empty(0) if residual is None else total, statistics


def over_samples(call: Call, values: Tensor, parameter: Tensor) -> Tensor:
    """Returns a gradient of weight or bias from what each element gives to it."""
    if call.kind == "group":
        dims = [d for d in range(values.ndim) if d != 1]
    else:
        dims = list(range(values.ndim - parameter.ndim))
    return (values.sum(dims) if dims else values).to(parameter.dtype)


def backward(wants: Wanted, grad: Tensor, grad_sum: Maybe, input: Tensor, *others: Any) -> Results:
    weight, bias, statistics, *options = others
    call = Call(*options)
    input = laid_out(call, input)
    x = wide(input)
    sets = by_sets(call, x)
    shape = [*sets.shape[:2], *[1] * (sets.ndim - 2)] if call.kind == "group" else [len(sets), 1]
    mean, inverse_std = (numbers.to(x.dtype).reshape(shape) for numbers in statistics)
    rows = (sets - mean) * inverse_std
    x_hat = rows.reshape(input.shape)
    change = through(call.activation, wide(grad), partial(linear, call, x_hat, weight, bias), call.negative_slope)
    weighted = by_sets(call, change if weight is None else change * along(call, weight, x))
    of_rows = weighted - rows * mean_of_sets(call, weighted * rows)
    if call.centers:
        of_rows = of_rows - mean_of_sets(call, weighted)
    of_input = (of_rows * inverse_std).reshape(input.shape)
    found = (
        (of_input if grad_sum is None else of_input + grad_sum).to(input.dtype) if wants[0] else None,
        over_samples(call, change * x_hat, weight) if wants[1] and weight is not None else None,
        over_samples(call, change, bias) if wants[2] and bias is not None else None,
    )
    return without_none(found, input)


_OPERATIONS: dict[Any, Any] = {
    torch.ops.fastopt.norm.default: forward,
    torch.ops.fastopt.norm_backward.default: backward,
}


@constant
def prepare() -> bool:
    return enter(_OPERATIONS)
