"""Which elements strided views share: answers torch does not give."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


@functools.lru_cache(maxsize=1024)
def _offsets(size: tuple[int, ...], stride: tuple[int, ...], item: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Sorted byte offsets of all elements."""
    offsets = np.zeros(1, dtype=np.int64)
    for n, s in zip(size, stride, strict=True):
        offsets = (offsets[:, None] + np.arange(n, dtype=np.int64) * s * item).ravel()
    return np.sort(offsets)


def _of(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    return _offsets(tuple(tensor.size()), tensor.stride(), tensor.element_size())


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Element i of both lies at the same offset from the start."""
    pairs = zip(a.size(), a.stride(), b.stride(), strict=True)
    return a.size() == b.size() and (a.numel() == 0 or all(n == 1 or s == t for n, s, t in pairs))


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two indices share an element, as in an expanded tensor."""
    span = 1  # conclusive and cheap: every stride steps over all that the smaller ones reach
    for stride, n in sorted((s, n) for n, s in zip(tensor.size(), tensor.stride(), strict=True) if n != 1):
        if stride < span:
            offsets = _of(tensor)
            return bool((np.diff(offsets) == 0).any())
        span += stride * (n - 1)
    return False


def _share(a: Tensor, b: Tensor) -> bool:
    shift = b.data_ptr() - a.data_ptr()
    item = min(a.element_size(), b.element_size())
    first, second = _of(a) // item, (_of(b) + shift) // item
    return bool(np.intersect1d(first, second).size)


def shared_pair(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Two of the strided tensors that share an element, if any do; interleaved ones do not."""
    ranges = []
    for tensor in tensors:
        if tensor.numel():
            reach = sum((n - 1) * s for n, s in zip(tensor.size(), tensor.stride(), strict=True)) + 1
            ranges.append((tensor.data_ptr(), tensor.data_ptr() + reach * tensor.element_size(), tensor))
    ranges.sort(key=lambda r: r[0])
    still_open: list[tuple[int, int, Tensor]] = []
    for later in ranges:
        still_open = [r for r in still_open if r[1] > later[0]]
        for earlier in still_open:
            if _share(earlier[2], later[2]):
                return earlier[2], later[2]
        still_open.append(later)
    return None
