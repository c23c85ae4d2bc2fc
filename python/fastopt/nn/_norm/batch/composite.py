"""Batch normalization in torch's own operations and float64: not fast, but differentiable any number of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..dense import Maybe, Operands
from .call import Call, Wanted
from .sync import SumAll

ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "relu6": lambda z, _: F.relu6(z),
    "leaky_relu": F.leaky_relu,
    "elu": lambda z, _: F.elu(z),
    "silu": lambda z, _: F.silu(z),
    "gelu": lambda z, _: F.gelu(z),
    "hardswish": lambda z, _: F.hardswish(z),
}

_aten = torch.ops.aten
# A change of z times the activation's derivative there, by operators that torch's forward mode supports.
SLOPES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "relu": lambda change, z, _: _aten.threshold_backward(change, z, 0),
    "relu6": lambda change, z, _: _aten.hardtanh_backward(change, z, 0, 6),
    "leaky_relu": lambda change, z, slope: _aten.leaky_relu_backward(change, z, slope, False),
    "elu": lambda change, z, _: _aten.elu_backward(change, 1, 1, 1, False, z),
    "silu": lambda change, z, _: _aten.silu_backward(change, z),
    "gelu": lambda change, z, _: _aten.gelu_backward(change, z),
    "hardswish": lambda change, z, _: _aten.hardswish_backward(change, z),
}


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
    return ACTIVATIONS[call.activation](z, call.negative_slope).to(input.dtype)


def by_torch(call: Call, operands: Operands) -> Tensor:
    """Runs a call in evaluation by torch's operators, which every exporter knows."""
    input, residual, weight, bias, running_mean, running_var = operands
    z = F.batch_norm(input, running_mean, running_var, weight, bias, False, 0.0, call.eps)
    return ACTIVATIONS[call.activation](z if residual is None else z + residual, call.negative_slope)


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
    if call.activation in SLOPES:
        change = SLOPES[call.activation](change, linear(x_hat, residual, weight, bias), call.negative_slope)
    return change.to(input.dtype)


def second_gradients(
    call: Call,
    statistics: Tensor,
    wants: Wanted,
    needs: Sequence[bool],
    tensors: Sequence[Maybe],
    grads: Sequence[Maybe],
) -> list[Maybe]:
    """Returns the gradients of grad, input, residual, weight and bias that ``needs`` asks for. ``grads`` are those of
    the first gradients, which ``wants`` chose."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views tell apart a tensor that comes in twice, as input and residual.
        own = [None if t is None else t.view_as(t) for t in tensors]
        own = [t if t is None or t.requires_grad else t.detach().requires_grad_() for t in own]
        grad, *inputs = own
        input, residual, weight, bias = inputs
        assert input is not None
        out = forward(call, statistics, input, residual, weight, bias)
        wanted = [t for t, want in zip(inputs, wants, strict=True) if want and t is not None]
        firsts = torch.autograd.grad(out, wanted, grad, create_graph=True)
        given = [g for g, want in zip(grads, wants, strict=True) if want]
        pairs = [(first, g) for first, g in zip(firsts, given, strict=False) if g is not None and first.requires_grad]
    if not pairs:
        return [None] * len(own)
    sought = [t for t, need in zip(own, needs, strict=True) if need and t is not None]
    outputs, weights = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, sought, weights, create_graph=again, allow_unused=True))
    return [next(found) if need and t is not None else None for t, need in zip(own, needs, strict=True)]
