"""The dropout family between its public functions and the kernels: autograd, seeds, and which way to go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..._compat import increment_version
from . import mask, operators, transforms
from .call import Call, check_type, compute, compute_sums

_PLAIN = (Tensor, torch.nn.Parameter)
_transforms_active = torch._C._are_functorch_transforms_active
_is_legacy_batch = torch._C._functorch.is_legacy_batchedtensor


def _watched(tensor: Tensor) -> bool:
    """Whether autograd, in either direction, is to know what becomes of it."""
    return (tensor.requires_grad and torch.is_grad_enabled()) or forward_ad._current_level >= 0


class _Drop(torch.autograd.Function):
    """The rules of one tensor. Each is linear, up to a constant."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: Call) -> Tensor:
        ctx.call = call
        return compute(call, input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return linear(ctx.call.gradient(), grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return compute(ctx.call.gradient(), tangent)


class _DropInPlace(_Drop):
    """Writes nothing: the caller does, when torch has agreed."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: Call) -> Tensor:
        ctx.call = call
        ctx.mark_dirty(input)
        return input

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        increment_version([tangent])
        return compute(ctx.call.gradient(), tangent, out=tangent)


class _DropAndAdd(torch.autograd.Function):
    """The rules with a residual."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, residual: Tensor, bias: Tensor | None, call: Call) -> Tensor:
        ctx.call, ctx.shape = call, input.shape
        return compute(call, input, residual, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wants_input, wants_residual, wants_bias, _ = ctx.needs_input_grad
        grad_input = grad_bias = None
        if wants_bias:
            grad_input, grad_bias = _summed(ctx.call.gradient(), grad, wants_input)
        elif wants_input:
            grad_input = linear(ctx.call.gradient(), grad)
        return grad_input, grad if wants_residual else None, grad_bias, None

    @staticmethod
    def jvp(ctx: Any, input: Tensor | None, residual: Tensor | None, bias: Tensor | None, _: None) -> Tensor | None:
        if bias is not None:
            input = bias.expand(ctx.shape) if input is None else input + bias
        if input is None:
            return residual
        dropped = compute(ctx.call.gradient(), input)
        return dropped if residual is None else dropped + residual


class _DropAndSum(torch.autograd.Function):
    """``grad -> (gradient of the input, gradient of the bias)``, for double backward."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        ctx.call = call
        grad_input, grad_bias = compute_sums(call, grad, True)
        assert grad_input is not None
        return grad_input, grad_bias

    @staticmethod
    def backward(ctx: Any, of_input: Tensor, of_bias: Tensor) -> tuple[Tensor, None]:
        return linear(ctx.call, of_input + of_bias), None


# Past the wrapper in Python, which asks for what has been asked already (functorch) and is not used: 1.5 us.
_record = super(torch.autograd.Function, _Drop).apply
_record_in_place = super(torch.autograd.Function, _DropInPlace).apply


def linear(call: Call, input: Tensor) -> Tensor:
    """A rule of one tensor, differentiably."""
    if type(input) not in _PLAIN or _is_legacy_batch(input):
        return operators.dropout(call, input)
    if _transforms_active():
        return transforms.drop(call, False, input)
    return _record(input, call) if _watched(input) else compute(call, input)


def _summed(call: Call, grad: Tensor, wants_input: bool) -> tuple[Tensor | None, Tensor]:
    if type(grad) not in _PLAIN or _is_legacy_batch(grad) or _transforms_active():
        return operators.drop_and_sum(call, grad)
    return _DropAndSum.apply(grad, call) if _watched(grad) else compute_sums(call, grad, wants_input)


def _check_seed(seed: int | None, offset: int, generator: torch.Generator | None) -> None:
    if offset != 0:
        mask.check_word("offset", offset)
    if seed is not None:
        mask.check_word("seed", seed)
        if generator is not None:
            raise ValueError("seed and generator exclude each other")


def _call(rule: str, p: float, dims: int, seed: int | None, offset: int, generator: torch.Generator | None) -> Call:
    """With a seed drawn where none is given; nothing is drawn where it would decide nothing."""
    if seed is None:
        seed = mask.draw_seed(generator) if 0 < p < 1 else 0
    return Call(rule, p, dims, seed, offset)


def _dispatched(tensor: Tensor) -> bool:
    """Whether somebody besides autograd is to see what becomes of it: a compiler, a tracer, a dispatch mode, a
    subclass, or another device than the CPU."""
    return (
        torch.compiler.is_compiling()
        or type(tensor) not in _PLAIN
        or not tensor.is_cpu
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_tracing()
    )


def drop(
    rule: str,
    input: Tensor,
    p: float,
    dims: int,
    inplace: bool,
    seed: int | None,
    offset: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Applies a rule of one tensor in the cheapest way that the tensor allows; draws a seed where none is given.

    The mask has the first ``dims`` dimensions of ``input``; ``p`` is checked and not 0.
    """
    if seed is not None or offset != 0:
        _check_seed(seed, offset, generator)
    if rule != "dropout":
        check_type(rule, input)
    if _dispatched(input):
        result = operators.draw_and_drop(rule, p, dims, seed, offset, generator, input)
        return input.copy_(result) if inplace else result
    if input.numel() == 0:
        return input
    if _transforms_active():
        result = transforms.drop(_call(rule, p, dims, seed, offset, generator), seed is None, input)
        return input.copy_(result) if inplace else result
    call = _call(rule, p, dims, seed, offset, generator)
    if _watched(input):
        if not inplace:
            return _record(input, call)
        if input.is_leaf or input._is_view():  # what may not be written, and how views are told, is for torch to say
            return input.copy_(_record(input, call))
        out: Tensor = _record_in_place(input, call)
        return compute(call, out, out=out)
    if inplace:
        increment_version([input])
        return compute(call, input, out=input)
    return compute(call, input)


def drop_and_add(
    rule: str,
    input: Tensor,
    residual: Tensor,
    bias: Tensor | None,
    p: float,
    seed: int | None,
    offset: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The same for a rule with a residual."""
    _check_seed(seed, offset, generator)
    tensors = (input, residual) if bias is None else (input, residual, bias)
    if any(map(_dispatched, tensors)):
        return operators.draw_and_drop(rule, p, input.dim(), seed, offset, generator, *tensors)
    call = _call(rule, p, input.dim(), seed, offset, generator)
    if _transforms_active():
        return transforms.drop(call, seed is None, *tensors)
    if any(map(_watched, tensors)):
        return _DropAndAdd.apply(input, residual, bias, call)
    return compute(call, input, residual, bias)
