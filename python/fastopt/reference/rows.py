"""Adds up the rows of a sparse gradient that belong to the same row of its parameter."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def sum_rows(numbers: Tensor, values: Tensor, out_numbers: Tensor, out_values: Tensor, threads: int) -> int:
    """Writes ascending numbers and the sums of their rows, each from the first row to the last; returns how many."""
    given, rows = numbers.numpy(), values.numpy()
    found, first, which = np.unique(given, return_index=True, return_inverse=True)
    sums = rows[first]
    others = np.setdiff1d(np.arange(len(given)), first)
    np.add.at(sums, which[others], rows[others])
    out_numbers.numpy()[: len(found)] = found
    out_values.numpy()[: len(found)] = sums
    return len(found)
