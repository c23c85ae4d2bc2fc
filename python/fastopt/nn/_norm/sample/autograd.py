"""Gradients of the norms of single samples, for kernels and operators alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from ...._compat import SingleLevelFunction
from ..._tracing import any_requires_grad_tracking, is_differentiated_again, library, transforms_active
from ..dense import Gradients, Maybe
from ..double_backward import first_only, gradients, record_gradients
from ..operators import Results, without_none
from . import composite, operators
from .call import Call, Operands
from .operators import OperatorCall

AnyCall = Call | OperatorCall


class _Norm(SingleLevelFunction):
    """``input, residual, weight, bias, call -> result``, or ``result, sum`` where there is a residual.

    The sum is a result even for a caller who does not want it, because it is kept for the backward pass, and second
    derivatives have to find their way from it to input and residual.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, residual: Maybe, weight: Maybe, bias: Maybe, call: AnyCall) -> Any:
        out, total, statistics = call.forward((input, residual, weight, bias))
        _keep(ctx, call, (input, residual, weight, bias), total, statistics)
        return out if residual is None else (out, total)

    @staticmethod
    def backward(ctx: Any, grad: Maybe, grad_sum: Maybe = None, *others: Any) -> tuple[Maybe, ...]:
        needs_input, needs_residual, *needs = ctx.needs_input_grad[:4]
        if grad is None:
            return grad_sum if needs_input else None, grad_sum if needs_residual else None, None, None, None
        how = (ctx.call, composite.results, operators.norm_backward, (needs_input or needs_residual, *needs))
        of_sum, of_weight, of_bias = gradients(*how, grad, grad_sum, *ctx.saved_tensors)
        return of_sum if needs_input else None, of_sum if needs_residual else None, of_weight, of_bias, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Maybe) -> Any:
        primals = ctx.saved_tensors
        if is_differentiated_again((*primals, *tangents)):
            raise RuntimeError(first_only(ctx.call))
        of_result, of_sum = composite.tangents(ctx.call, primals, tangents[:4])
        return of_result if primals[1] is None else (of_result, of_sum)


class _NormAndStatistics(_Norm):
    """``input, residual, weight, bias, call -> result, sum, statistics``; the sum is empty where there is no
    residual."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, residual: Maybe, weight: Maybe, bias: Maybe, call: AnyCall) -> Any:
        out, total, statistics = call.forward((input, residual, weight, bias))
        _keep(ctx, call, (input, residual, weight, bias), total, statistics)
        if residual is not None:
            ctx.mark_non_differentiable(statistics)
            return out, total, statistics
        total = input.new_empty(0) if total is None else total
        ctx.mark_non_differentiable(total, statistics)
        ctx.set_materialize_grads(False)
        return out, total, statistics

    @staticmethod
    def jvp(ctx: Any, *tangents: Maybe) -> Any:
        found = _Norm.jvp(ctx, *tangents)
        return (*found, None) if isinstance(found, tuple) else (found, None, None)


def _keep(ctx: Any, call: AnyCall, operands: Operands, total: Maybe, statistics: Tensor) -> None:
    input, residual, weight, bias = operands
    ctx.call = call
    if residual is not None:
        ctx.set_materialize_grads(False)
    if forward_ad._current_level >= 0 or transforms_active():
        ctx.save_for_forward(input, residual, weight, bias)
    ctx.save_for_backward(input if residual is None else total, weight, bias, statistics)


_record, _record_all = _Norm.apply, _NormAndStatistics.apply


def apply(call: Call, operands: Operands) -> tuple[Tensor, Maybe]:
    """Runs ``call``, and lets autograd record it where it tracks an argument. Returns result and sum."""
    if any_requires_grad_tracking(operands):
        found = _record(*operands, call)
        return (found, None) if operands[1] is None else found
    return call.forward(operands)[:2]


def apply_and_tell(call: Call, operands: Operands) -> tuple[Tensor, Maybe, Tensor]:
    """The same, with the statistics."""
    if any_requires_grad_tracking(operands):
        out, total, statistics = _record_all(*operands, call)
        return out, None if operands[1] is None else total, statistics
    return call.forward(operands)


# torch.library.register_autograd knows neither forward mode nor torch.func, whose levels are recorded one at a time.


@torch.library.impl(library, "norm", "Autograd")
def _(input: Tensor, residual: Maybe, weight: Maybe, bias: Maybe, *options: Any) -> Results:
    operands, call = (input, residual, weight, bias), OperatorCall(*options)
    watched = any_requires_grad_tracking(operands)
    with enable_single_level_autograd_function():
        if watched and not (transforms_active() and is_differentiated_again(operands)):
            results: Results = _record_all(*operands, call)
            return results
        results = call.forward(operands)
    if watched:
        # What torch.func differentiates again has to be made of torch's operations from the beginning.
        out, total = composite.forward(call, operands)
        results = (out, results[1] if residual is None else total, results[2])
    return results


@torch.library.impl(library, "norm_backward", "Autograd")
def _(wants: list[bool], grad: Tensor, grad_sum: Maybe, input: Tensor, *others: Any) -> Results:
    weight, bias, statistics, *options = others
    call = OperatorCall(*options)
    tensors = (grad, grad_sum, input, weight, bias)
    with enable_single_level_autograd_function():
        if any_requires_grad_tracking(tensors):
            found: Gradients = record_gradients(*tensors, statistics, call, tuple(wants), composite.results)
        else:
            found = call.backward(tuple(wants), *tensors, statistics)
    return without_none(found, input)
