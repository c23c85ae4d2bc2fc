"""Finds the elements that strided views share, which torch does not tell."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from ._sharded import local


class _View(NamedTuple):
    """Where a tensor's elements lie."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    item: int  # bytes

    @property
    def reach(self) -> int:
        """The bytes from the begin of the first element to the end of the last one."""
        return (sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True)) + 1) * self.item


def _view(tensor: Tensor) -> _View:
    return _View(tuple(tensor.size()), tensor.stride(), tensor.element_size())


def _bytes(tensor: Tensor) -> int:
    return tensor.nbytes if tensor.is_contiguous() else _view(tensor).reach


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether element i of both lies at the same offset from the start."""
    pairs = zip(a.size(), a.stride(), b.stride(), strict=True)
    return a.size() == b.size() and (a.numel() == 0 or all(n == 1 or s == t for n, s, t in pairs))


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two indices share an element, as in an expanded tensor."""
    if tensor.is_contiguous():
        return False
    span = 1  # nothing overlaps if every stride steps over all that the smaller ones reach
    for stride, n in sorted((s, n) for n, s in zip(tensor.size(), tensor.stride(), strict=True) if n != 1):
        if stride < span:
            view = _view(tensor)
            more_than_places = tensor.numel() > view.reach // view.item  # walking a large expanded one would be slow
            return tensor.numel() > 0 and (more_than_places or _elements(view) < tensor.numel())
        span += stride * (n - 1)
    return False


@functools.lru_cache(maxsize=1024)
def _elements(view: _View) -> int:
    """Counts the places in memory that a view has."""
    memory = np.zeros(view.reach // view.item, dtype=bool)
    as_strided(memory, view.size, view.stride)[...] = True
    return int(memory.sum())


@functools.lru_cache(maxsize=1024)
def _share(shift: int, first: _View, second: _View) -> bool:
    """Whether two views share a byte; the second begins ``shift`` bytes after the first."""
    unit = math.gcd(first.item, second.item, shift)
    memory = np.zeros(max(first.reach, shift + second.reach) // unit, dtype=bool)

    def units(begin: int, view: _View) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        per_item = view.item // unit
        strides = tuple(s * per_item for s in view.stride)
        return as_strided(memory[begin // unit :], (*view.size, per_item), (*strides, 1))

    units(0, first)[...] = True
    return bool(units(shift, second).any())


def shared_pair(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Returns two of the strided tensors that share memory, or None; interleaved ones do not share it. Of a DTensor
    only this process's part counts."""
    if len(tensors) < 2:
        return None
    ranges = [(own.data_ptr(), _bytes(own), own, t) for own, t in ((local(t), t) for t in tensors) if own.numel()]
    ranges.sort(key=lambda r: r[0])
    still_open: list[tuple[int, int, Tensor, Tensor]] = []
    for later in ranges:
        still_open = [r for r in still_open if r[0] + r[1] > later[0]]
        for earlier in still_open:
            if _share(later[0] - earlier[0], _view(earlier[2]), _view(later[2])):
                return earlier[3], later[3]
        still_open.append(later)
    return None
