"""Adafactor (arXiv 1804.04235)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .half import Array
from .math import lerp, minimum
from .pipeline import rule
from .reductions import by_lanes, in_order, squares, tile_sums, tiled, total


def _inverse_root(second_moment: Array) -> Array:
    root: Array = second_moment.dtype.type(1) / np.sqrt(second_moment)
    return root


def _scale(
    param_squares: float, direction_squares: float, n: int, *, rho: float, eps2: float, d: float, **_: float
) -> float:
    """Returns alpha / max(1, RMS(update) / d)."""
    rms_param = math.sqrt(param_squares / n)
    clipping = math.sqrt(direction_squares / n) / d
    # Either is NaN where its sum is.
    alpha = (rms_param if not rms_param < eps2 else eps2) * rho
    return alpha / (clipping if not clipping < 1.0 else 1.0)


def _moved(param: Array, grad: Array, variance: Array, **c: Any) -> tuple[Array, ...]:
    """Returns the update of a vector and its state."""
    variance = lerp(variance, grad * grad, c["one_minus_beta2"])
    return grad * minimum(_inverse_root(variance), c["limit"]), variance


@rule("adafactor", measured=_moved, scale=_scale)
def adafactor(
    param: Array,
    grad: Array,
    variance: Array,
    *,
    one_minus_beta2: Any,
    rho: Any,
    limit: Any,
    eps1: Any,
    eps2: Any,
    d: Any,
    scale: Any,
) -> tuple[Array, ...]:
    """``rho`` is min(lr, 1 / sqrt(t)), ``limit`` is 1 / eps1."""
    update, variance = _moved(param, grad, variance, one_minus_beta2=one_minus_beta2, limit=limit)
    return param - scale * update, variance


def _row_sums(tiles: Array) -> Array:
    """Returns [matrix, row]: sums of each tile across, by lanes, and of these sums, by lanes."""
    return by_lanes(by_lanes(tiles)).reshape(tiles.shape[0], -1)


def _column_sums(tiles: Array) -> Array:
    """Returns [matrix, column]: sums of each band, row after row, then of each tile, band after band, then of all tiles
    down, by lanes."""
    in_tiles = in_order(in_order(tiles, 3), 2)
    return by_lanes(np.moveaxis(in_tiles, 1, -1)).reshape(tiles.shape[0], -1)


@rule("adafactor_factored", decays=True, factored=True)
def adafactor_factored(
    param: Array,
    grad: Array,
    row_var: Array,
    col_var: Array,
    *,
    one_minus_beta2: Any,
    rho: Any,
    limit: Any,
    eps1: Any,
    eps2: Any,
    d: Any,
    exact: dict[str, float],
    decay: Any,
    shape: tuple[int, int, int],
) -> tuple[Array, ...]:
    """``shape`` is (matrices, rows, columns), ``exact`` has the scalars unrounded."""
    T = param.dtype.type
    count, rows, columns = shape
    grad_squares = tiled(squares(grad).reshape(shape))
    row_sums = _row_sums(grad_squares)[:, :rows]
    column_sums = _column_sums(grad_squares)[:, :columns]
    row_var = lerp(row_var.reshape(count, rows), (row_sums / columns).astype(T), one_minus_beta2)
    col_var = lerp(col_var.reshape(count, columns), (column_sums / rows).astype(T), one_minus_beta2)

    mean = (total(row_var.astype(np.float64)) / rows).astype(T)
    mean = np.where((mean > eps1) | np.isnan(mean), mean, eps1)
    row_factors = _inverse_root(row_var / mean[:, None])
    column_factors = _inverse_root(col_var)
    inverse = row_factors[:, :, None] * column_factors[:, None, :]
    update = grad.reshape(shape) * minimum(inverse, limit)
    step = _scale(
        float(total(tile_sums(tiled(squares(param).reshape(shape))))),
        float(total(tile_sums(tiled(squares(update))))),
        param.size,
        **exact,
    )
    return param * decay - T(step) * update.reshape(-1), row_var.reshape(-1), col_var.reshape(-1)
