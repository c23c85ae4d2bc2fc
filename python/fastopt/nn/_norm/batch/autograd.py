"""Gradients of batch normalization, for kernels and operators alike. Kernels compute the first ones, torch's operations
(``composite``) further ones."""

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
    through_operators,
    transforms_active,
)
from ..dense import Maybe, Operands
from . import composite, operators
from .call import Call, Gradients, Wanted
from .checks import check_running
from .operators import OperatorCall, Results

AnyCall = Call | OperatorCall
_FIRST_ONLY = "batch_norm: torch.func has its first derivatives only; torch.autograd has all"


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
        wants = ctx.needs_input_grad[:4]
        if ctx.call.activation != "identity":
            return (*gradients(ctx.call, wants, grad, input, residual, weight, bias, statistics), None, None, None)
        own = (wants[0], False, wants[2], wants[3])
        bias = getattr(ctx, "bias", bias)
        of_input, _, of_weight, of_bias = gradients(ctx.call, own, grad, input, None, weight, bias, statistics)
        return of_input, grad if wants[1] else None, of_weight, of_bias, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Maybe) -> Any:
        *primals, statistics = ctx.saved_tensors
        if is_differentiated_again((*primals, *tangents)):
            raise RuntimeError(_FIRST_ONLY)
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


class _Gradients(SingleLevelFunction):
    """``grad, input, residual, weight, bias, statistics, call, wants -> gradients``"""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Gradients:
        *tensors, statistics, ctx.call, ctx.wants = args
        ctx.save_for_backward(*tensors, statistics)
        found: Gradients = ctx.call.backward(ctx.wants, *tensors, statistics)
        return found

    @staticmethod
    def jvp(ctx: Any, *tangents: Maybe) -> Any:
        raise RuntimeError("batch_norm: forward mode has first derivatives only; torch.autograd.grad has all")

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        if transforms_active():
            raise RuntimeError(_FIRST_ONLY)
        *tensors, statistics = ctx.saved_tensors
        needs = ctx.needs_input_grad[:5]
        found = composite.second_gradients(ctx.call, statistics, ctx.wants, needs, tensors, grads)
        return (*found, None, None, None)


_record, _record_operator, _record_gradients = _BatchNorm.apply, _BatchNormOperator.apply, _Gradients.apply


def gradients(call: AnyCall, wants: Wanted, grad: Tensor, *others: Any) -> Gradients:
    """Computes the first gradients, and lets autograd record it where it tracks an argument."""
    if type(call) is OperatorCall or through_operators(grad):
        return operators.batch_norm_backward(call, wants, grad, *others)
    if any_requires_grad_tracking((grad, *others)):
        found: Gradients = _record_gradients(grad, *others, call, wants)
        return found
    return call.backward(wants, grad, *others)


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
            found: Gradients = _record_gradients(*tensors, statistics, call, tuple(wants))
        else:
            found = call.backward(tuple(wants), *tensors, statistics)
    return operators.without_none(found, input)
