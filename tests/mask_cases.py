"""Dropout masks as test data: known answers, probabilities, and sizes around what a kernel takes at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from torch import Tensor

KNOWN = json.loads((Path(__file__).parent / "data" / "dropout_masks.json").read_text())
WORDS = st.integers(0, 2**64 - 1)
STEP = 2.0**-48  # the resolution of probabilities
PROBABILITIES = st.sampled_from([STEP, 1e-6, 1e-3, 0.1, 1 / 3, 0.5, 0.999, 1 - STEP]) | st.floats(0, 1)
BOUNDARIES = [8, 64, 256, 1024, 16384, 32768, 65536]
NEAR_BOUNDARIES = [n + off for n in BOUNDARIES for off in (-7, -1, 0, 1, 7)]


def packed_bytes(kept: Tensor | np.ndarray[Any, Any]) -> bytes:
    return np.packbits(np.asarray(kept).reshape(-1), bitorder="little").tobytes()


def counters(first: int, count: int) -> np.ndarray[Any, Any]:
    return np.uint64(first) + np.arange(count, dtype=np.uint64)


def as_integer(words: list[str]) -> int:
    """Combines words in hex, the low one first."""
    return sum(int(word, 16) << 32 * i for i, word in enumerate(words))
