"""Gives tensors places in a few large pieces of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_SLAB = 2**26  # bytes, at most: torch rounds pinned memory up to a power of two
_ALIGNMENT = 64


def places_like(tensors: Iterable[Tensor], take: Callable[[int], Tensor]) -> list[Tensor]:
    """Returns memory for tensors of the same shapes and types, with the same strides where they are dense.

    Args:
        tensors: what is to find a place.
        take: makes memory of so many bytes.
    """
    places: list[Tensor] = []
    waiting: list[tuple[Tensor, int]] = []  # of one slab, with the byte at which each begins
    used = 0

    def place() -> None:
        with torch.inference_mode(False):  # a step outside of that mode could not write to it
            slab = take(used)
        for layout, begin in waiting:
            own = slab[begin : begin + layout.numel() * layout.element_size()].view(layout.dtype)
            places.append(own.as_strided(layout.size(), layout.stride()))
        waiting.clear()

    for tensor in tensors:
        layout = torch.empty_like(tensor, device="meta")
        room = -(-layout.numel() * layout.element_size() // _ALIGNMENT) * _ALIGNMENT
        if waiting and used + room > _SLAB:
            place()
            used = 0
        waiting.append((layout, used))
        used += room
    place()
    return places
