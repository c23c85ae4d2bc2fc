"""Dropout under the transforms of ``torch.func`` and ``torch.vmap``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .call import Call, compute


class _Drop(torch.autograd.Function):
    """The rules of one tensor, in the form functorch asks for, which costs 13 us more than the other."""

    @staticmethod
    def forward(input: Tensor, call: Call, drawn: bool) -> Tensor:
        return compute(call, input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.call, ctx.drawn = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Drop.apply(grad, ctx.call.gradient(), ctx.drawn), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Drop.apply(tangent, ctx.call.gradient(), ctx.drawn)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], input: Tensor, call: Call, drawn: bool) -> tuple[Tensor, int]:
        if drawn and info.randomness == "error":
            raise RuntimeError(
                "vmap: called random operation while in randomness error mode. Please either use the 'same' or "
                "'different' randomness flags on vmap or perform the randomness operation out of vmap"
            )
        if drawn and info.randomness == "different":
            return _Drop.apply(input.movedim(in_dims[0], 0), call.over(call.dims + 1), drawn), 0
        # The mask is that of one sample; dimensions behind its own share it.
        return _Drop.apply(input.movedim(in_dims[0], -1), call, drawn), input.dim() - 1


def drop(call: Call, drawn: bool, input: Tensor, residual: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Applies ``call``. ``drawn`` tells that its seed is nobody's choice, so that samples may have own masks."""
    if bias is not None:
        input = input + bias
    if residual is None:
        return _Drop.apply(input, call, drawn)
    return residual + _Drop.apply(input, call.gradient(), drawn)
