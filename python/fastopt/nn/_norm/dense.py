"""Brings tensors into the form that the kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ..._runtime import PLAIN

Maybe: TypeAlias = Tensor | None
Wanted: TypeAlias = Sequence[bool]  # whether to compute each gradient
Gradients: TypeAlias = tuple[Maybe, ...]  # in the same order
# Of batch normalization: input, residual, weight, bias, running mean and running variance. It is a plain tuple because
# making a named one would slow down small calls.
Operands: TypeAlias = tuple[Tensor, Maybe, Maybe, Maybe, Maybe, Maybe]


def channels(input: Tensor) -> int:
    return input.shape[1] if input.ndim > 1 else 0


_LAYOUTS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


def like(input: Tensor, other: Tensor) -> Tensor:
    """Returns ``other`` as a dense plain tensor with the layout of ``input``: itself where a quick check suffices,
    otherwise a copy."""
    plain = type(other) in PLAIN and other.device == input.device and not other.is_neg() and other.dtype == input.dtype
    if plain and other.shape == input.shape and other.stride() == input.stride():
        for layout in _LAYOUTS[: max(1, other.ndim - 2)]:
            if other.is_contiguous(memory_format=layout):
                return other
    with torch.no_grad():
        return torch.empty_like(input.as_subclass(Tensor)).copy_(other.as_subclass(Tensor))


def like_or_none(input: Tensor, other: Maybe) -> Maybe:
    return None if other is None else like(input, other)


def put_back(running: tuple[Maybe, Maybe], now: tuple[Maybe, Maybe]) -> None:
    """Copies running statistics back from what :func:`parameter` made of them, which bumps their versions even where
    both share memory. It detaches because a program with no_grad() in it cannot always be exported."""
    for own, changed in zip(running, now, strict=True):
        if own is not None and changed is not None:
            own.detach().copy_(changed)


def parameter(tensor: Maybe) -> Maybe:
    """Returns a contiguous plain tensor of one number per channel."""
    return None if tensor is None else tensor.detach().as_subclass(Tensor).contiguous().resolve_neg()
