"""How parameters and states are kept (``csrc/common.h``, Storage): masters, halves of bits, codes, random rounding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import half
from .half import Array
from .math import lerp
from .philox import philox

CODE_BLOCK = 32  # elements with one scale
_PERMUTATIONS = (1, 0x9E37, 0x79B9, 0x7F4B, 0xC15B, 0xE42D)  # of the 16 random bits, by operand
_COPY = len(_PERMUTATIONS) - 1


class Rounding(NamedTuple):
    """What the random bits of a parameter depend on, and what is rounded by them."""

    seed: int
    number: int
    first: int  # element of the parameter that this process has
    step: int
    param: bool
    states: bool


def random_bits(seed: int, number: int, step: int, count: int, first: int = 0) -> Array:
    """16 bits for each of the elements [first, first + count), as uint32."""
    counters = np.arange(first // 8, (first + count + 7) // 8, dtype=np.uint64)
    blocks = philox(seed, counters, number | (step & 0xFFFFFFFF) << 32)
    drawn = np.ascontiguousarray(blocks.astype("<u4")).view("<u2").reshape(-1)
    return drawn[first % 8 : first % 8 + count].astype(np.uint32)


def permuted(random: Array, operand: int) -> Array:
    """The bits for the parameter (0), state k (k + 1) or the copy (the last)."""
    bits: Array = random * np.uint32(_PERMUTATIONS[operand]) & np.uint32(0xFFFF)
    return bits


def round_at_random(values: Array, random: Array, out: Array) -> None:
    """Rounds float32 ``values`` into a half type: up with the probability of what is cut off."""
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    if out.dtype == half.bfloat16:
        finite = (bits + random) >> 16
        special = np.where(np.isnan(values), np.uint32(0x7FC0), bits >> 16)
        out["bfloat16"] = np.where(magnitude >= 0x7F800000, special, finite)
        return
    normal = np.minimum((magnitude - np.uint32(112 << 23) + (random >> 3)) >> 13, np.uint32(0x7C00))
    is_tiny = magnitude < 113 << 23
    units = np.where(is_tiny, magnitude, np.uint32(0)).view(np.float32) * np.float32(2**24)
    whole = np.floor(units)
    rest = ((units - whole) * np.float32(65536)).astype(np.uint32)
    tiny = whole.astype(np.uint32) + ((rest + random) >> 16)
    finite = np.where(is_tiny, tiny, normal) | bits >> 16 & np.uint32(0x8000)
    special = np.where(np.isnan(values), np.uint32(0x7E00), np.uint32(0x7C00) | bits >> 16 & np.uint32(0x8000))
    out[...] = np.where(magnitude >= 0x7F800000, special, finite).astype(np.uint16).view(np.float16)


def split(values: Array, upper: Array, lower: Array) -> None:
    """``(bits of upper << 16) + lower`` are the bits of a finite value; of two equally near halves the larger one."""
    bits, is_nan = values.view(np.uint32), np.isnan(values)
    upper["bfloat16"] = np.where(is_nan, np.uint32(0x7FC0), (bits + np.uint32(0x8000)) >> 16)
    lower[...] = np.where(is_nan, np.uint32(0), bits).astype(np.uint16).view(np.int16)


def join(upper: Array, lower: Array) -> Array:
    """The values. A lower half that cannot belong to the upper one counts as 0."""
    high = upper["bfloat16"].astype(np.uint32)
    nearer = (high & np.uint32(0x7FFF)) - (lower < 0).astype(np.uint32)
    low = np.where(nearer < 0x7F80, lower.astype(np.int32).view(np.uint32), np.uint32(0))
    joined: Array = ((high << 16) + low).view(np.float32)
    return joined


def follow(master: Array, param: Array) -> Array:
    """The master, but for elements whose parameter somebody changed: those are the parameter's."""
    rounded = np.empty_like(param)
    half.store(master, rounded)
    same = rounded.view(np.uint16) == param.view(np.uint16)
    return np.where(same, master, half.load(param))


def encode(values: Array, codes: Array, scales: Array) -> None:
    """float32 ``values`` into int8 or, if they are not negative, uint8."""
    padded = np.zeros(len(scales) * CODE_BLOCK, np.float32)
    padded[: len(values)] = values
    blocks = padded.reshape(-1, CODE_BLOCK)
    largest = (blocks.view(np.uint32) & np.uint32(0x7FFFFFFF)).max(axis=1)
    scale = np.where(largest < 0x00800000, np.uint32(0), largest)
    scales[...] = np.where(largest >= 0x7F800000, np.uint32(0x7FC00000), scale).view(np.float32)
    inverse = np.where(scales > 0, np.float32(1) / np.where(scales > 0, scales, np.float32(1)), np.float32(0))
    number = blocks * inverse[:, None]
    if codes.dtype == np.int8:
        number = np.where(np.isnan(number), np.float32(0), number)
        rounded = np.rint(np.float32(254) * number / (np.float32(1) + np.abs(number)))
    else:
        one = np.float32(1 / 255**2)  # has the code 1
        rounded = np.rint(np.float32(255) * np.sqrt(np.where(number > one, number, one)))
        rounded = np.where(blocks > 0, rounded, np.float32(0))
    codes[...] = rounded.reshape(-1)[: len(values)].astype(codes.dtype)


def decode(codes: Array, scales: Array) -> Array:
    """The float32 values of int8 or uint8 codes."""
    scale = np.repeat(scales, CODE_BLOCK)[: len(codes)]
    c = codes.astype(np.float32)
    if codes.dtype == np.int8:
        values: Array = c / (np.float32(254) - np.abs(c)) * scale
        return values
    root: Array = c * np.float32(1 / 255)
    return root * root * scale  # type: ignore[no-any-return]


class Kept(NamedTuple):
    """The flat arrays of one parameter; None where an option is off."""

    master: Array | None  # float32, or int16: the lower halves
    average: Array | None
    copy: Array | None
    scales: tuple[Array | None, ...]  # of each state
    average_weight: float
    rounding: Rounding

    def load_param(self, param: Array) -> Array:
        if self.master is None:
            return half.load(param)
        return join(param, self.master) if self.master.dtype == np.int16 else follow(self.master, param)

    def load_state(self, k: int, state: Array) -> Array:
        scales = self.scales[k]
        return half.load(state) if scales is None else decode(state, scales)

    def store_param(self, values: Array, param: Array) -> Array:
        """And what goes along with it. Returns what is kept of the values: themselves, or their rounding."""
        if self.master is None:
            self._store(values, param, 0, self.rounding.param)
            value = half.load(param)
        elif self.master.dtype == np.int16:
            split(values, param, self.master)
            value = values
        else:
            self.master[...] = values
            half.store(values, param)
            value = values
        if self.average is not None:
            self.average[...] = lerp(self.average, value, value.dtype.type(self.average_weight))
        if self.copy is not None:
            self._store(value, self.copy, _COPY, self.rounding.param)
        return value

    def store_state(self, k: int, values: Array, state: Array) -> None:
        scales = self.scales[k]
        if scales is None:
            self._store(values, state, 1 + k, self.rounding.states)
        else:
            encode(values, state, scales)

    def _store(self, values: Array, out: Array, operand: int, at_random: bool) -> None:
        if at_random and out.dtype in (half.bfloat16, np.float16) and values.dtype == np.float32:
            r = self.rounding
            round_at_random(values, permuted(random_bits(r.seed, r.number, r.step, len(values), r.first), operand), out)
        else:
            half.store(values if out.dtype not in (half.bfloat16, np.float16) else values.astype(np.float32), out)


NOTHING = Kept(None, None, None, (None,) * 8, 0.0, Rounding(0, 0, 0, 0, False, False))
