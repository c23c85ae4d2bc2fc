"""Philox4x32-10 (Salmon et al., SC 2011), for arrays of counters."""

from __future__ import annotations

import numpy as np

from .half import Array

ROUNDS = 10
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(key: int, counter_low: Array, counter_high: int) -> Array:
    """128 random bits per counter.

    Args:
        key: 64 bits, the low word first.
        counter_low: uint64 array of any length n; the first two words of the counters.
        counter_high: their last two words, 64 bits.

    Returns:
        uint32 array of shape (n, 4).
    """
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    c0, c1 = counter_low & _LOW, counter_low >> _HALF
    c2 = np.full_like(counter_low, counter_high & 0xFFFFFFFF)
    c3 = np.full_like(counter_low, counter_high >> 32)
    for _ in range(ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW
        c2, c3 = (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)
