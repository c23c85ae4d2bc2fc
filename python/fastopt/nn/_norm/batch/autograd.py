"""Gradients of batch normalization, for kernels and operators alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from ...._compat import SingleLevelFunction
from ..._tracing import (
    any_requires_grad_tracking,
    is_differentiated_again,
    library,
    transforms_active,
)
from ..dense import Gradients, Maybe, Operands
from ..double_backward import first_only, gradients, record_gradients
from ..operators import Results, without_none
from . import composite, operators
from .call import Call
from .checks import check_running
from .operators import OperatorCall

AnyCall = Call | OperatorCall


class _BatchNorm(SingleLevelFunction):
    """``input, residual, weight, bias, (running_mean, running_var), call -> result``"""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        residual: Maybe,
        weight: Maybe,
        bias: Maybe,
        running: tuple[Maybe, Maybe],
        call: AnyCall,
    ) -> Any:
        out, statistics = call.forward((input, residual, weight, bias, *running))
        _keep(ctx, call, input, residual, weight, bias, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *others: Any) -> tuple[Maybe, ...]:
        input, residual, weight, bias, statistics = ctx.saved_tensors
        wants, how = ctx.needs_input_grad[:4], (ctx.call, _composite, operators.batch_norm_backward)
        if ctx.call.activation != "identity":
            return (*gradients(*how, wants, grad, input, residual, weight, bias, statistics), None, None, None)
        own = (wants[0], False, wants[2], wants[3])
        bias = getattr(ctx, "bias", bias)
        of_input, _, of_weight, of_bias = gradients(*how, own, grad, input, None, weight, bias, statistics)
        return of_input, grad if wants[1] else None, of_weight, of_bias, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Maybe) -> Any:
        *primals, statistics = ctx.saved_tensors
        if is_differentiated_again((*primals, *tangents)):
            raise RuntimeError(first_only(ctx.call))
        return composite.tangent(ctx.call, statistics, primals, tangents[:4])


class _BatchNormOperator(_BatchNorm):
    """``input, residual, weight, bias, running_mean, running_var, call -> result, statistics, new running mean, new
    running variance``"""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        *operands, call = args
        out, statistics, *running = call.forward(tuple(operands))
        input, residual, weight, bias, *_ = operands
        _keep(ctx, call, input, residual, weight, bias, statistics)
        ctx.mark_non_differentiable(statistics, *running)
        return out, statistics, *running

    @staticmethod
    def jvp(ctx: Any, *tangents: Maybe) -> Any:
        return _BatchNorm.jvp(ctx, *tangents), None, None, None


def _composite(*arguments: Any) -> tuple[Tensor]:
    return (composite.forward(*arguments),)


def _keep(
    ctx: Any, call: AnyCall, input: Tensor, residual: Maybe, weight: Maybe, bias: Maybe, statistics: Tensor
) -> None:
    ctx.call = call
    if forward_ad._current_level >= 0 or transforms_active():
        ctx.save_for_forward(input, residual, weight, bias, statistics)
    elif call.activation == "identity":  # gradients do not need their values then, so they may be written to
        ctx.bias = bias if bias is None or bias.is_leaf else bias.detach()
        residual = bias = None
    ctx.save_for_backward(input, residual, weight, bias, statistics)


_record, _record_operator = _BatchNorm.apply, _BatchNormOperator.apply


def apply(call: Call, operands: Operands) -> Tensor:
    """Runs ``call``, and lets autograd record it where it tracks an argument."""
    if any_requires_grad_tracking(operands):
        check_running(call.batch, *operands[4:])
        out: Tensor = _record(*operands[:4], operands[4:], call)
        return out
    return call.forward(operands)[0]


# torch.library.register_autograd knows neither forward mode nor torch.func, whose levels are recorded one at a time.


@torch.library.impl(library, "batch_norm", "Autograd")
def _(*arguments: Any) -> Results:
    operands, plain = operators.told(*arguments)
    call = OperatorCall(*plain)
    watched = any_requires_grad_tracking(operands)
    if watched:
        check_running(call.batch, *operands[4:])
    with enable_single_level_autograd_function():
        if watched and not (transforms_active() and is_differentiated_again(operands[:4]) and not call.group):
            results: Results = _record_operator(*operands, call)
            return results
        results = call.forward(operands)
    if watched:
        # What torch.func differentiates again has to be made of torch's operations from the beginning.
        results = (composite.forward(call, results[1], *operands[:4]), *results[1:])
    return results


@torch.library.impl(library, "batch_norm_backward", "Autograd")
def _(
    wants: list[bool],
    grad: Tensor,
    input: Tensor,
    residual: Maybe,
    weight: Maybe,
    bias: Maybe,
    statistics: Tensor,
    *options: Any,
) -> Gradients:
    call = OperatorCall(*options)
    tensors = (grad, input, residual, weight, bias)
    with enable_single_level_autograd_function():
        if any_requires_grad_tracking(tensors):
            found: Gradients = record_gradients(*tensors, statistics, call, tuple(wants), _composite)
        else:
            found = call.backward(tuple(wants), *tensors, statistics)
    return without_none(found, input)
