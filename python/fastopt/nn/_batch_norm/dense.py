"""Tensors as the kernels take them."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Maybe: TypeAlias = Tensor | None


def channels(input: Tensor) -> int:
    return input.shape[1] if input.ndim > 1 else 0


def like(input: Tensor, other: Tensor) -> Tensor:
    """``other`` as a dense plain tensor with the layout of ``input``."""
    with torch.no_grad():
        return torch.empty_like(input.as_subclass(Tensor)).copy_(other.as_subclass(Tensor))


def like_or_none(input: Tensor, other: Maybe) -> Maybe:
    return None if other is None else like(input, other)


def parameter(tensor: Maybe) -> Maybe:
    """One number per channel, side by side."""
    return None if tensor is None else tensor.detach().as_subclass(Tensor).contiguous().resolve_neg()
