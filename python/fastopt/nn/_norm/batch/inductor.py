"""Batch normalization in operations that torch's inductor fuses with their neighbours."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...._compiler import constant
from ..activations import FUNCTIONS, through
from ..dense import Maybe, Wanted
from ..inductor import enter, wide
from ..operators import Results, without_none
from .call import Call
from .composite import along, linear
from .operators import told


def forward(*arguments: Any) -> Results:
    (input, residual, weight, bias, running_mean, running_var), call = told(*arguments)
    if call.group:
        return NotImplemented
    x = wide(input)
    new: list[Maybe] = [None, None]
    if call.batch:
        var, mean = torch.var_mean(x, [d for d in range(x.ndim) if d != 1], correction=0, keepdim=True)
        count = input.numel() / input.shape[1]
        found = (mean.reshape(-1), var.reshape(-1) * (count / (count - 1)))
        for i, (old, now) in enumerate(zip((running_mean, running_var), found, strict=True)):
            if old is not None:
                new[i] = (call.momentum * now + (1 - call.momentum) * old).to(old.dtype)
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, var = along(running_mean, x), along(running_var, x)
    inverse_std = torch.rsqrt(var + call.eps)
    z = linear((x - mean) * inverse_std, residual, weight, bias)
    out = FUNCTIONS[call.activation](z, call.negative_slope).to(input.dtype)
    statistics = torch.stack([mean.reshape(-1), inverse_std.reshape(-1)])
    return out, statistics, *without_none(tuple(new), input)


def backward(
    wants: Wanted,
    grad: Tensor,
    input: Tensor,
    residual: Maybe,
    weight: Maybe,
    bias: Maybe,
    statistics: Tensor,
    *options: Any,
) -> Results:
    call = Call(*options)
    if call.group:
        return NotImplemented
    dims = [d for d in range(input.ndim) if d != 1]
    x = wide(input)
    inverse_std = along(statistics[1], x)
    x_hat = (x - along(statistics[0], x)) * inverse_std
    change = wide(grad)
    change = through(call.activation, change, partial(linear, x_hat, residual, weight, bias), call.negative_slope)
    total, scaled = change.sum(dims, keepdim=True), (change * x_hat).sum(dims, keepdim=True)
    of_input = change
    if call.batch:
        count = input.numel() / input.shape[1]
        of_input = change - (total + x_hat * scaled) / count
    of_input = of_input * inverse_std
    if weight is not None:
        of_input = of_input * along(weight, x)
    found = (
        of_input.to(input.dtype) if wants[0] else None,
        change.to(input.dtype) if wants[1] else None,
        scaled.reshape(-1).to(weight.dtype) if wants[2] and weight is not None else None,
        total.reshape(-1).to(bias.dtype) if wants[3] and bias is not None else None,
    )
    return without_none(found, input)


_OPERATIONS = {
    torch.ops.fastopt.batch_norm.default: forward,
    torch.ops.fastopt.batch_norm_backward.default: backward,
}


@constant
def prepare() -> bool:
    return enter(_OPERATIONS)
