"""Gradients of the dropout family, of every order and in both directions, for kernels and operators alike.

A call is a ``Call`` or an ``operators.OperatorCall``. Both can run, and both return the call that is their gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function

from ..._compat import SingleLevelFunction, increment_version
from .._tracing import any_requires_grad_tracking, library, requires_grad_tracking, through_operators
from . import operators
from .call import Call
from .operators import AnyCall, OperatorCall


class _Drop(SingleLevelFunction):
    """The rules of one tensor. Each is linear except for a constant."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: AnyCall) -> Tensor:
        ctx.call = call
        return call.run(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _linear(ctx.call.gradient(), grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _linear(ctx.call.gradient(), tangent)


class _DropInPlace(_Drop):
    """Records a rule in place. The caller writes the result when torch has agreed."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: AnyCall) -> Tensor:
        ctx.call = call
        ctx.mark_dirty(input)
        return input

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.copy_(_linear(ctx.call.gradient(), tangent))


class _DropAndAdd(SingleLevelFunction):
    """The rules with a residual."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, residual: Tensor, bias: Tensor | None, call: AnyCall) -> Tensor:
        ctx.call, ctx.shape = call, input.shape
        return call.run(input, residual, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wants_input, wants_residual, wants_bias, _ = ctx.needs_input_grad
        grad_input = grad_bias = None
        if wants_bias:
            grad_input, grad_bias = _summed(ctx.call.gradient(), grad, wants_input)
        elif wants_input:
            grad_input = _linear(ctx.call.gradient(), grad)
        return grad_input, grad if wants_residual else None, grad_bias, None

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, residual: Tensor | None, bias: Tensor | None, _: None) -> Tensor | None:
        if bias is not None:
            input = bias.expand(ctx.shape) if input is None else input + bias
        if input is None:
            return residual
        dropped = _linear(ctx.call.gradient(), input)
        return dropped if residual is None else dropped + residual


class _DropAndSum(SingleLevelFunction):
    """``grad -> (gradient of the input, gradient of the bias)``, for double backward."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, call: AnyCall) -> tuple[Tensor | None, Tensor]:
        ctx.call = call
        return call.sums(grad, True)

    @staticmethod
    def backward(ctx: Any, of_input: Tensor, of_bias: Tensor) -> tuple[Tensor, None]:
        return _linear(ctx.call, of_input + of_bias), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor | None, Tensor]:
        return _summed(ctx.call, tangent, True)


_record, _record_in_place = _Drop.apply, _DropInPlace.apply
_record_added, _record_sums = _DropAndAdd.apply, _DropAndSum.apply


def _through_operators(call: AnyCall, tensor: Tensor) -> bool:
    return type(call) is OperatorCall or through_operators(tensor)


def _linear(call: AnyCall, input: Tensor) -> Tensor:
    """Applies the gradient of a rule, differentiably."""
    return operators.dropout(call, input) if _through_operators(call, input) else apply(call, input)


def _summed(call: AnyCall, grad: Tensor, wants_input: bool) -> tuple[Tensor | None, Tensor]:
    if _through_operators(call, grad):
        return operators.dropout_gradients(call, grad)
    return apply_sums(call, grad, wants_input)


def apply(call: AnyCall, input: Tensor, residual: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Runs ``call``, and lets autograd record it where it tracks an argument."""
    if residual is None:
        return _record(input, call) if requires_grad_tracking(input) else call.run(input)
    if any_requires_grad_tracking((input, residual, bias)):
        return _record_added(input, residual, bias, call)
    return call.run(input, residual, bias)


def apply_sums(call: AnyCall, grad: Tensor, wants_input: bool = True) -> tuple[Tensor | None, Tensor]:
    return _record_sums(grad, call) if requires_grad_tracking(grad) else call.sums(grad, wants_input)


def apply_in_place(call: Call, input: Tensor) -> Tensor:
    """Runs ``call`` and writes to ``input``, where torch allows it."""
    if requires_grad_tracking(input):
        if input.is_leaf or input._is_view():  # torch refuses what may not be written, and updates views
            return input.copy_(_record(input, call))
        _record_in_place(input, call)
    elif input.is_inference() and not torch.is_inference_mode_enabled():
        return input.copy_(input)  # raises torch's error
    else:
        increment_version([input])
    return call.run(input, out=input)


# torch.library.register_autograd knows neither forward mode nor torch.func, whose levels are recorded one at a time.


@torch.library.impl(library, "dropout", "Autograd")
def _(
    input: Tensor,
    seed: Tensor,
    rule: str,
    p: float,
    offset: int,
    dims: int,
    residual: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    with enable_single_level_autograd_function():
        return apply(OperatorCall(rule, p, dims, seed, offset), input, residual, bias)


@torch.library.impl(library, "dropout_gradients", "Autograd")
def _(grad: Tensor, seed: Tensor, rule: str, p: float, offset: int) -> tuple[Tensor | None, Tensor]:
    with enable_single_level_autograd_function():
        return apply_sums(OperatorCall(rule, p, grad.ndim, seed, offset), grad)
