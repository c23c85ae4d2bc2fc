"""Gradients of gradients. Kernels compute the first ones, torch's operations further ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._compat import SingleLevelFunction
from .._tracing import any_requires_grad_tracking, through_operators, transforms_active
from .dense import Gradients, Maybe, Wanted

# Computes the results of a call (a call, statistics, its tensors), one for each incoming gradient.
Composite = Callable[..., Sequence[Tensor]]


class _Gradients(SingleLevelFunction):
    """``incoming gradients and tensors of the call, statistics, call, wants, composite -> gradients``"""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Gradients:
        *tensors, statistics, ctx.call, ctx.wants, ctx.composite = args
        ctx.save_for_backward(*tensors, statistics)
        found: Gradients = ctx.call.backward(ctx.wants, *tensors, statistics)
        return found

    @staticmethod
    def jvp(ctx: Any, *tangents: Maybe) -> Any:
        name = ctx.call.function
        raise RuntimeError(f"{name}: forward mode has first derivatives only; torch.autograd.grad has all")

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Maybe, ...]:
        if transforms_active():
            raise RuntimeError(first_only(ctx.call))
        *tensors, statistics = ctx.saved_tensors
        needs = ctx.needs_input_grad[: len(tensors)]

        def composite(*inputs: Maybe) -> Sequence[Tensor]:
            results: Sequence[Tensor] = ctx.composite(ctx.call, statistics, *inputs)
            return results

        found = _second_gradients(composite, ctx.wants, needs, tensors, grads)
        return (*found, None, None, None, None)


record_gradients = _Gradients.apply


def first_only(call: Any) -> str:
    return f"{call.function}: torch.func has its first derivatives only; torch.autograd has all"


def gradients(call: Any, composite: Composite, operator: Any, wants: Wanted, *tensors: Any) -> Gradients:
    """Computes the first gradients, and lets autograd record it where it tracks an argument. ``operator`` does so
    through the dispatcher. The first of the tensors is a gradient, the last one holds the statistics."""
    if call.is_operator or through_operators(tensors[0]):
        found: Gradients = operator(call, wants, *tensors)
    elif any_requires_grad_tracking(tensors):
        found = record_gradients(*tensors, call, wants, composite)
    else:
        found = call.backward(wants, *tensors)
    return found


def _second_gradients(
    composite: Callable[..., Sequence[Tensor]],
    wants: Wanted,
    needs: Sequence[bool],
    tensors: Sequence[Maybe],
    grads: Sequence[Maybe],
) -> list[Maybe]:
    """Returns the gradients of the tensors that ``needs`` asks for: first those that came in, then the call's own.
    ``grads`` are those of the first gradients, which ``wants`` chose."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views tell apart a tensor that comes in twice, as input and residual.
        own = [None if t is None else t.view_as(t) for t in tensors]
        own = [t if t is None or t.requires_grad else t.detach().requires_grad_() for t in own]
        incoming, inputs = own[: -len(wants)], own[-len(wants) :]
        results = zip(composite(*inputs), incoming, strict=True)
        known = [(result, g) for result, g in results if g is not None]
        wanted = [t for t, want in zip(inputs, wants, strict=True) if want and t is not None]
        outputs, weights = zip(*known, strict=True)
        firsts = torch.autograd.grad(outputs, wanted, weights, create_graph=True)
        given = [g for g, want in zip(grads, wants, strict=True) if want]
        pairs = [(first, g) for first, g in zip(firsts, given, strict=False) if g is not None and first.requires_grad]
    if not pairs:
        return [None] * len(own)
    sought = [t for t, need in zip(own, needs, strict=True) if need and t is not None]
    outputs, weights = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, sought, weights, create_graph=again, allow_unused=True))
    return [next(found) if need and t is not None else None for t, need in zip(own, needs, strict=True)]
