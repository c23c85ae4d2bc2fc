"""The shape of a normalization's sums (``csrc/engine/norm/layout.cpp``, ``csrc/cpu/norm/planes.h``,
``columns.h``): flush blocks are summed in lanes of the compute type, which are emptied into float64 and joined in
order. All channels run at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from torch import Tensor

from . import half
from .half import Array
from .step import flat

Pairs: TypeAlias = tuple[Array, Array]  # two float64 numbers per channel

LANES = 32
BLOCK = 1024  # elements of a piece, at most
CHUNK = 65536  # elements of a chunk, about
PLANE = 16  # from this `inner` on a tensor is taken as planes
FLUSH_PIECES = 4
FLUSH_ROWS = 128
SHIFT_ROWS = 8  # the rows of a flush block whose mean is its shift


class Channels:
    """Memory as [outer][channels][inner]. Sums take it as planes or as columns."""

    def __init__(self, outer: int, count: int, inner: int, planes: bool | None = None) -> None:
        self.outer, self.count, self.inner = outer, count, inner
        self.elements = outer * inner
        self.planes = inner >= PLANE if planes is None else planes

    @staticmethod
    def of(tensor: Tensor) -> Channels:
        """Returns the channels of a dense tensor, whose second dimension they are."""
        count, total = tensor.shape[1], tensor.numel()
        inner = total if count == 1 else tensor.stride(1)
        return Channels(total // (count * inner), count, inner)

    def load(self, tensor: Tensor) -> Array:
        """Returns (outer, channels, inner) in the compute type."""
        return half.load(flat(tensor)).reshape(self.outer, self.count, self.inner)

    def store(self, values: Array, out: Tensor) -> None:
        half.store(values.reshape(-1), flat(out))

    @staticmethod
    def spread(numbers: Array) -> Array:
        """Spreads one number per channel along the memory."""
        return numbers[:, None]


def join(pairs: Pairs, count: float, other: Pairs, others: float) -> Pairs:
    """Joins mean and sum of squared deviations of ``count`` elements with those of ``others``: Chan, Golub and LeVeque,
    1979."""
    fraction = others / (count + others)
    delta = other[0] - pairs[0]
    mean = pairs[0] + delta * fraction
    squares = pairs[1] + (other[1] + delta * delta * (count * fraction))
    return mean, squares


def _shift(first: Array, total: Array, n: int) -> Array:
    """Returns what is subtracted before squaring: about the mean of some elements, from the sum of x - first."""
    shift: Array = (first.astype(np.float64) + total * (1 / n)).astype(first.dtype)
    return shift


def _from_shifted(shift: Array, total: Array, squares: Array, n: int) -> Pairs:
    mean = total * (1 / n)
    deviations = squares - total * mean
    return shift.astype(np.float64) + mean, np.where(deviations < 0, 0.0, deviations)


# Planes: (channels, elements).


def _merged(lanes: Array) -> Array:
    wide = lanes.astype(np.float64)
    while wide.shape[1] > 1:
        middle = wide.shape[1] // 2
        wide = wide[:, :middle] + wide[:, middle:]
    merged: Array = wide[:, 0]
    return merged


def _rows(values: Array, filler: Array) -> Array:
    """Returns (rows, channels, lanes), the last row filled up with ``filler``."""
    missing = -values.shape[1] % LANES
    full = np.concatenate([values, np.repeat(filler[:, None], missing, axis=1)], axis=1)
    rows: Array = full.reshape(len(values), -1, LANES).transpose(1, 0, 2)
    return rows


def _chunks_of_pieces(channels: Channels, x: Array) -> Iterator[list[Array]]:
    """Yields chunks, which are lists of pieces of shape (channels, elements)."""
    inner, outer = channels.inner, channels.outer
    by_channel = x.transpose(1, 0, 2)
    if inner > BLOCK:
        rows = np.array_split(np.arange(0, inner, LANES), math.ceil(inner / BLOCK))
        pieces = [by_channel[:, s, part[0] : part[-1] + LANES] for s in range(outer) for part in rows]
    else:
        segments = min(BLOCK // inner, outer)
        starts = range(0, outer, segments)
        pieces = [by_channel[:, s : s + segments].reshape(channels.count, -1) for s in starts]
    per_chunk = CHUNK // BLOCK
    for first in range(0, len(pieces), per_chunk):
        yield pieces[first : first + per_chunk]


def _plane_shift(values: Array) -> Array:
    values = values[:, : SHIFT_ROWS * LANES]
    first = values[:, 0]
    lanes = np.zeros((len(values), LANES), values.dtype)
    for row in _rows(values, first):
        lanes += row - first[:, None]
    return _shift(first, _merged(lanes), values.shape[1])


def _plane_moments(channels: Channels, x: Array) -> Pairs:
    pairs, count = (np.zeros(channels.count), np.zeros(channels.count)), 0
    for chunk in _chunks_of_pieces(channels, x):
        own, gathered = (np.zeros(channels.count), np.zeros(channels.count)), 0
        for first in range(0, len(chunk), FLUSH_PIECES):
            group = chunk[first : first + FLUSH_PIECES]
            shift = _plane_shift(group[0])
            total = np.zeros((channels.count, LANES), x.dtype)
            squares = np.zeros_like(total)
            for piece in group:
                for row in _rows(piece, shift):
                    delta = row - shift[:, None]
                    total += delta
                    squares += delta * delta
            n = sum(piece.shape[1] for piece in group)
            theirs = _from_shifted(shift, _merged(total), _merged(squares), n)
            own = join(own, gathered, theirs, n)
            gathered += n
        pairs = join(pairs, count, own, gathered)
        count += gathered
    return pairs


def _plane_sums(channels: Channels, grad: Array, x: Array, center: Array) -> Pairs:
    zeros = np.zeros(channels.count, x.dtype)
    total, products = np.zeros(channels.count), np.zeros(channels.count)
    both = zip(_chunks_of_pieces(channels, grad), _chunks_of_pieces(channels, x), strict=True)
    for grad_chunk, chunk in both:
        own, own_products = np.zeros(channels.count), np.zeros(channels.count)
        for first in range(0, len(chunk), FLUSH_PIECES):
            lanes = np.zeros((channels.count, LANES), x.dtype)
            product_lanes = np.zeros_like(lanes)
            group = slice(first, first + FLUSH_PIECES)
            for grad_piece, piece in zip(grad_chunk[group], chunk[group], strict=True):
                for g, row in zip(_rows(grad_piece, zeros), _rows(piece, center), strict=True):
                    lanes += g
                    product_lanes += g * (row - center[:, None])
            own = own + _merged(lanes)
            own_products = own_products + _merged(product_lanes)
        total, products = total + own, products + own_products
    return total, products


# Columns: (rows, columns), and the elements after the last full row.


def _columns(channels: Channels, x: Array) -> tuple[Array, Array]:
    period = channels.count * channels.inner
    folded = period * (LANES // math.gcd(period, LANES))
    columns = folded if folded <= BLOCK else period
    memory = x.reshape(-1)
    rows = memory.size // columns
    return memory[: rows * columns].reshape(rows, columns), memory[rows * columns :]


def _chunk_of_rows(columns: int) -> int:
    return max(CHUNK // columns // FLUSH_ROWS, 1) * FLUSH_ROWS


def _of_channels(channels: Channels, columns: Array) -> Iterator[Array]:
    """Yields one column of every channel at a time."""
    for period in columns.reshape(-1, channels.count, channels.inner):
        yield from period.T


def _column_shift(block: Array) -> Array:
    rows = block[:SHIFT_ROWS]
    total = np.zeros_like(rows[0])
    for row in rows[1:]:
        total += row - rows[0]
    return _shift(rows[0], total.astype(np.float64), len(rows))


def _column_moments(channels: Channels, x: Array) -> Pairs:
    rows, rest = _columns(channels, x)
    pairs, count = (np.zeros(channels.count), np.zeros(channels.count)), 0
    step = _chunk_of_rows(rows.shape[1])
    for first in range(0, len(rows), step):
        chunk = rows[first : first + step]
        own, gathered = (np.zeros(rows.shape[1]), np.zeros(rows.shape[1])), 0
        for begin in range(0, len(chunk), FLUSH_ROWS):
            block = chunk[begin : begin + FLUSH_ROWS]
            shift = _column_shift(block)
            total, squares = np.zeros_like(shift), np.zeros_like(shift)
            for row in block:
                delta = row - shift
                total += delta
                squares += delta * delta
            n = len(block)
            theirs = _from_shifted(shift, total.astype(np.float64), squares.astype(np.float64), n)
            own = join(own, gathered, theirs, n)
            gathered += n
        for theirs in zip(_of_channels(channels, own[0]), _of_channels(channels, own[1]), strict=True):
            pairs = join(pairs, count, theirs, gathered)
            count += gathered
    for single in _of_channels(channels, rest):
        pairs = join(pairs, count, (single.astype(np.float64), np.zeros(channels.count)), 1)
        count += 1
    return pairs


def column_chunks(rows: Array, step: int) -> Iterator[Array]:
    """Yields the sums of the columns of each chunk, which has ``step`` rows."""
    for first in range(0, len(rows), step):
        own = np.zeros(rows.shape[1])
        for begin in range(first, min(first + step, len(rows)), FLUSH_ROWS):
            lanes = np.zeros_like(rows[0])
            for row in rows[begin : min(begin + FLUSH_ROWS, first + step)]:
                lanes += row
            own = own + lanes
        yield own


def _column_sums(channels: Channels, grad: Array, x: Array, center: Array) -> Pairs:
    products = grad * (x - Channels.spread(center))
    sums = []
    for values in (grad, products):
        rows, rest = _columns(channels, values)
        step = _chunk_of_rows(rows.shape[1])
        total = np.zeros(channels.count)
        for own in column_chunks(rows, step):
            for part in _of_channels(channels, own):
                total = total + part
        for part in _of_channels(channels, rest):
            total = total + part
        sums.append(total)
    return sums[0], sums[1]


def moments(channels: Channels, x: Array) -> Pairs:
    """Returns mean and sum of squared deviations."""
    return (_plane_moments if channels.planes else _column_moments)(channels, x)


def sums(channels: Channels, grad: Array, x: Array, center: Array) -> Pairs:
    """Sums ``grad``, and its products with ``x - center``."""
    return (_plane_sums if channels.planes else _column_sums)(channels, grad, x, center)
