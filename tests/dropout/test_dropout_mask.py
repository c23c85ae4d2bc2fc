"""On every backend, the mask is the function of seed, offset and element that docs/dropout_mask.md describes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fastopt.nn.functional as F
from fastopt import _core
from fastopt.nn._dropout.mask import threshold
from fastopt.reference.dropout import flags
from fastopt.reference.philox import philox
from mask_cases import KNOWN, NEAR_BOUNDARIES, PROBABILITIES, STEP, WORDS, as_integer, counters, packed_bytes
from support import ISAS, running

EVERY_ISA = pytest.mark.parametrize("isa", ISAS)
EVERYWHERE = [{"backend": "reference"}, *({"isa": isa, "threads": n} for isa in ISAS for n in (1, 2))]


def native_philox(key: int, first: int, counter_high: int, count: int) -> np.ndarray[Any, Any]:
    """Random bits in the reference's order, for `count` counters from `first` on."""
    blocks = torch.empty((count, 4), dtype=torch.int32)
    _core.philox_blocks(blocks, key, first, counter_high)
    return blocks.numpy().view(np.uint32)


@pytest.mark.parametrize("known", KNOWN["philox"], ids=lambda known: known["key"][0])
def test_philox_known_answers(known: dict[str, list[str]]) -> None:
    key, block, offset = as_integer(known["key"]), as_integer(known["counter"][:2]), as_integer(known["counter"][2:])
    expected = [[int(word, 16) for word in known["expected"]]]
    assert philox(key, counters(block, 1), offset).tolist() == expected
    for isa in ISAS:
        with running(isa=isa):
            assert native_philox(key, block, offset, 1).tolist() == expected


@settings(deadline=None)
@given(WORDS, st.integers(0, 2**63 - 100) | st.integers(2**63, 2**64 - 100), WORDS, st.integers(1, 99))
@example(1, 2**32 - 50, 2, 99)
@example(1, 2**63, 2, 99)
def test_philox_equals_reference(key: int, first: int, counter_high: int, count: int) -> None:
    """Every lane is right, also if the counter's low word overflows."""
    expected = philox(key, counters(first, count), counter_high)
    for isa in ISAS:
        with running(isa=isa):
            np.testing.assert_array_equal(native_philox(key, first, counter_high, count), expected)


@pytest.mark.parametrize("known", KNOWN["masks"], ids=lambda known: f"{known['p']:g} {known['shape']}")
@pytest.mark.parametrize("where", EVERYWHERE, ids=str)
def test_mask_known_answers(known: dict[str, Any], where: dict[str, Any]) -> None:
    of = {key: known[key] for key in ("shape", "p", "seed", "offset")}
    assert threshold(known["p"]) == known["threshold"]
    with running(**where):
        mask = F.dropout_mask(**of)
        assert F.dropout_mask(**of, packed=True).numpy().tobytes().hex() == known["packed"]
    assert mask.shape == torch.Size(known["shape"])
    assert packed_bytes(mask).hex() == known["packed"]
    for element, kept in known["ties"]:
        assert mask.flatten()[element] == kept


def test_known_masks_have_ties_of_both_outcomes() -> None:
    outcomes = [kept for known in KNOWN["masks"] for _, kept in known["ties"]]
    assert min(outcomes.count(True), outcomes.count(False)) >= 3


@settings(deadline=None)
@given(PROBABILITIES)
@example(0.5 * STEP)
@example(1.5 * STEP)
@example(2.5 * STEP)
def test_threshold_is_the_nearest(p: float) -> None:
    assert threshold(p) == round(Fraction(p) * 2**48)


SHAPES = st.lists(st.integers(0, 40), max_size=3).map(tuple)
LONG = st.integers(1, 2**17).map(lambda n: (n,))  # sizes at which threads share the work


@settings(max_examples=150, deadline=None)
@given(SHAPES | LONG, PROBABILITIES, WORDS, WORDS)
def test_any_mask_equals_reference(shape: tuple[int, ...], p: float, seed: int, offset: int) -> None:
    of = {"p": p, "seed": seed, "offset": offset}
    with running("reference"):
        expected = F.dropout_mask(shape, **of)
    for where in EVERYWHERE:
        with running(**where):
            mask, packed = F.dropout_mask(shape, **of), F.dropout_mask(shape, **of, packed=True)
        assert (mask.dtype, mask.shape) == (torch.bool, shape)
        assert (packed.dtype, packed.shape) == (torch.uint8, (-(-mask.numel() // 8),))
        assert torch.equal(mask, expected)
        assert packed.numpy().tobytes() == packed_bytes(expected)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 40), WORDS, WORDS)
def test_ties(element: int, after: int, seed: int, offset: int) -> None:
    """The probability is chosen to make the element a tie: 32 more bits keep it, and drop it one step further."""
    word = int(philox(seed, counters(element // 8, 1), offset)[0, element % 8 // 2])
    first = word >> 16 if element % 2 else word & 0xFFFF
    other = int(philox(seed, counters(element + 2**63, 1), offset)[0, 0])
    for where in EVERYWHERE:
        for step, kept in ((0, True), (1, False)):
            p = ((first << 32) + other + step) * STEP
            with running(**where):
                assert F.dropout_mask(element + after, p, seed=seed, offset=offset)[element] == kept


LARGE = 3 * 2**19 + 2**14 + 13


def pieces() -> Iterator[tuple[int, int]]:
    """Pieces of uneven sizes, cut inside blocks and bytes."""
    begin, size = 0, 1
    while begin < LARGE:
        yield begin, min(begin + size, LARGE)
        begin, size = begin + size, 3 * size + 1


@functools.cache
def large_mask(p: float, seed: int, offset: int) -> np.ndarray[Any, Any]:
    """The mask of LARGE elements, made in pieces."""
    of = {"seed": seed, "offset": offset, "threshold": threshold(p)}
    return np.concatenate([flags(np.arange(begin, end, dtype=np.uint64), **of) for begin, end in pieces()])


@EVERY_ISA
@pytest.mark.parametrize("p", [1e-3, 1 / 3])
def test_large_masks_equal_their_pieces(p: float, isa: str) -> None:
    expected = large_mask(p, 2**64 - 3, 2**40 + 1)
    for threads in (1, 2, 3):
        with running(isa=isa, threads=threads):
            mask = F.dropout_mask(LARGE, p, seed=2**64 - 3, offset=2**40 + 1)
            packed = F.dropout_mask(LARGE, p, seed=2**64 - 3, offset=2**40 + 1, packed=True)
        np.testing.assert_array_equal(mask.numpy(), expected)
        assert packed.numpy().tobytes() == packed_bytes(expected)


@EVERY_ISA
def test_a_mask_begins_as_the_shorter_one(isa: str) -> None:
    """A shorter mask equals the beginning of a longer one, whatever remains after its last vector, byte or block."""
    with running(isa=isa):
        longest = F.dropout_mask(2100, 0.4, seed=3)
        for n in range(2100):
            assert torch.equal(F.dropout_mask(n, 0.4, seed=3), longest[:n])


@EVERY_ISA
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_nothing_outside_is_written(p: float, packed: bool, isa: str) -> None:
    """The bytes around a mask, aligned or not, keep their values."""
    guard, around = 0xA5, 80
    for i, n in enumerate(NEAR_BOUNDARIES):
        kept = large_mask(p, 7, 0)[:n]
        expected = packed_bytes(kept) if packed else kept.tobytes()
        begin, size = around + i % 3, len(expected)
        for threads in (1, 2):
            memory = torch.full((size + 2 * around + 3,), guard, dtype=torch.uint8)
            with running(isa=isa, threads=threads):
                _core.write_mask(memory[begin : begin + size], n, packed, 7, 0, threshold(p), threads)
            assert memory[begin : begin + size].numpy().tobytes() == expected
            assert (memory[:begin] == guard).all()
            assert (memory[begin + size :] == guard).all()
