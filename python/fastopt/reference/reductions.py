"""Sums of one fixed shape, in float64. A chunk of 4096 elements has 32 lanes, with element i in lane i % 32, which are
merged halves onto halves. The results of all chunks go through 32 lanes once more.
"""

from __future__ import annotations

import numpy as np

from .half import Array
from .power import power

CHUNK = 4096
LANES = 32
TILE_ROWS, TILE_COLUMNS, BAND_ROWS = 64, 256, 8  # of a matrix


def in_order(values: Array, axis: int, join: np.ufunc = np.add) -> Array:
    """Joins values one after the other (``np.sum`` would go pairwise)."""
    if values.shape[axis] == 0:
        return np.zeros(np.delete(values.shape, axis))
    last: Array = join.accumulate(values, axis=axis).take(-1, axis=axis)
    return last


def cut(values: Array, size: int, start: float) -> Array:
    """Cuts the last axis into pieces, and fills up the last one."""
    filler = np.full((*values.shape[:-1], -values.shape[-1] % size), start)
    return np.concatenate([values, filler], axis=-1).reshape(*values.shape[:-1], -1, size)


def lanes_of(values: Array, join: np.ufunc = np.add, start: float = 0.0) -> Array:
    """Joins the last axis into lanes."""
    return in_order(cut(values, LANES, start), -2, join)


def merge(lanes: Array, join: np.ufunc = np.add) -> Array:
    """Joins halves of the last axis onto halves."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = join(lanes[..., :half], lanes[..., half:])
    merged: Array = lanes[..., 0]
    return merged


def by_lanes(values: Array, join: np.ufunc = np.add, start: float = 0.0) -> Array:
    """Joins the last axis by lanes."""
    return merge(lanes_of(values, join, start), join)


def partials(values: Array, join: np.ufunc = np.add, start: float = 0.0) -> Array:
    """Returns one result per chunk of the last axis."""
    return by_lanes(cut(values, CHUNK, start), join, start)


def total(values: Array) -> Array:
    """Sums the last axis: chunks first, then their sums."""
    return by_lanes(partials(values))


def tiled(matrices: Array) -> Array:
    """Cuts [matrix, row, column] into [matrix, tile down, band, row, tile across, column], filled up with zeros."""
    count, rows, columns = matrices.shape
    high = min(TILE_ROWS, rows + -rows % BAND_ROWS)  # small matrices have no empty bands
    wide = min(TILE_COLUMNS, columns + -columns % LANES)
    padded = np.pad(matrices, ((0, 0), (0, -rows % high), (0, -columns % wide)))
    return padded.reshape(count, padded.shape[1] // high, -1, BAND_ROWS, padded.shape[2] // wide, wide)


def tile_sums(tiles: Array) -> Array:
    """Sums every tile: each band row after row into lanes, then the lanes of the bands one after the other, then merges
    the lanes."""
    bands = np.moveaxis(tiles, 4, 2)
    lanes = lanes_of(bands.reshape(*bands.shape[:4], -1))
    return merge(in_order(lanes, 3)).reshape(-1)


def squares(values: Array) -> Array:
    wide = values.astype(np.float64)
    product: Array = wide * wide
    return product


def sum_of(values: Array) -> float:
    """Sums a tensor's terms for a scaled or grouped rule: the results of chunks are summed like elements."""
    return float(total(partials(values.astype(np.float64))))


def _terms(reduction: str, values: Array, exponent: float) -> Array:
    wide = values.astype(np.float64)
    terms: Array = np.abs(wide)
    if reduction == "squares":
        terms = squares(values)
    if reduction == "nonzeros":
        terms = (wide != 0).astype(np.float64)
    if reduction == "powers":
        terms = power(terms, exponent)
    return terms


_JOINS: dict[str, tuple[np.ufunc, float]] = {
    "squares": (np.add, 0.0),
    "magnitudes": (np.add, 0.0),
    "nonzeros": (np.add, 0.0),
    "powers": (np.add, 0.0),
    "largest": (np.maximum, 0.0),
    "smallest": (np.minimum, np.inf),
}


def norm(reduction: str, arrays: list[Array], exponent: float) -> float:
    """Returns the norm of the elements of all flat arrays; it takes the root of a sum of squares or powers."""
    join, start = _JOINS[reduction]
    with np.errstate(all="ignore"):
        parts = [partials(_terms(reduction, values, exponent), join, start) for values in arrays if values.size]
        total = by_lanes(np.concatenate(parts), join, start) if parts else np.float64(start)
        if reduction == "squares":
            return float(np.sqrt(total))
        return float(power(total[None], 1.0 / exponent)[0] if reduction == "powers" else total)
