"""What a monitored step leaves of a parameter (``csrc/cpu/optim/statistics.h``)."""

from __future__ import annotations

import numpy as np

from .half import Array
from .reductions import by_lanes, partials, squares, tile_sums, tiled

NOTHING_MEASURED = (0.0, 0.0, 0.0, 0.0)  # of a parameter without elements


def statistics(grad: Array, before: Array, after: Array, shape: tuple[int, int, int] | None) -> tuple[float, ...]:
    """Returns sums of squares of gradient, parameter and update, and how many elements of the gradient are not finite.

    A factored rule's parameter is summed by the tiles of its matrices, whose results go through the lanes like those of
    chunks.
    """

    def total(values: Array) -> float:
        if shape is None:
            return float(by_lanes(partials(squares(values))))
        return float(by_lanes(tile_sums(tiled(squares(values).reshape(shape)))))

    return total(grad), total(after), total(after - before), float(np.count_nonzero(~np.isfinite(grad)))
