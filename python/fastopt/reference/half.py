"""Converts bfloat16 and float16 to float32 and back: rounds to nearest even, and makes every NaN the one quiet NaN.

NumPy has no bfloat16: its bits travel as a structured type, so that no arithmetic can touch them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

bfloat16 = np.dtype([("bfloat16", np.uint16)])


def load(array: Array) -> Array:
    """Returns the values in the compute type."""
    if array.dtype == bfloat16:
        return (array["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array


def store(values: Array, out: Array) -> None:
    """Rounds ``values`` into ``out``; float64 to a half type by way of float32."""
    if out.dtype in (bfloat16, np.float16):
        values = values.astype(np.float32, copy=False)
    if out.dtype == bfloat16:
        bits = values.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        out["bfloat16"] = np.where(np.isnan(values), np.uint32(0x7FC0), rounded)
    elif out.dtype == np.float16:
        out[...] = np.where(np.isnan(values), np.float16(np.nan), values.astype(np.float16))
    else:
        out[...] = values


def rounded(values: Array, dtype: torch.dtype) -> Array:
    """Returns values of the compute type as a tensor of ``dtype`` would hold them."""
    kept = np.empty_like(values, dtype=bfloat16 if dtype == torch.bfloat16 else str(dtype).removeprefix("torch."))
    store(values, kept)
    return load(kept)
