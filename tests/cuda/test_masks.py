"""Masks made on a device are the specified ones, and so are the random bits that they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastopt.nn.functional as F
from fastopt import _runtime
from fastopt.nn._dropout.mask import threshold
from fastopt.reference.dropout import CERTAIN, flags
from fastopt.reference.philox import philox
from gpu import DEVICE, gpu
from mask_cases import KNOWN, NEAR_BOUNDARIES, PROBABILITIES, STEP, WORDS, as_integer, counters, packed_bytes


def device_philox(key: int, first: int, counter_high: int, count: int) -> np.ndarray[Any, Any]:
    blocks = torch.empty((count, 4), dtype=torch.int32, device=DEVICE)
    with gpu():
        _runtime.kernels.philox_blocks(blocks, key, first, counter_high)
    return blocks.cpu().numpy().view(np.uint32)


@pytest.mark.parametrize("known", KNOWN["philox"], ids=lambda known: known["key"][0])
def test_philox_known_answers(known: dict[str, list[str]]) -> None:
    key, block, offset = as_integer(known["key"]), as_integer(known["counter"][:2]), as_integer(known["counter"][2:])
    assert device_philox(key, block, offset, 1).tolist() == [[int(word, 16) for word in known["expected"]]]


@settings(deadline=None)
@given(WORDS, st.integers(0, 2**64 - 700), WORDS, st.integers(1, 600))
@example(1, 2**32 - 50, 2, 99)
@example(1, 2**60 - 50, 2**64 - 1, 99)
@example(1, 2**63 - 50, 2, 99)
def test_philox_equals_reference(key: int, first: int, counter_high: int, count: int) -> None:
    """The counter's low word may overflow; this stands for elements far beyond a test's memory."""
    expected = philox(key, counters(first, count), counter_high)
    np.testing.assert_array_equal(device_philox(key, first, counter_high, count), expected)


@pytest.mark.parametrize("known", KNOWN["masks"], ids=lambda known: f"{known['p']:g} {known['shape']}")
def test_mask_known_answers(known: dict[str, Any]) -> None:
    of = {key: known[key] for key in ("shape", "p", "seed", "offset")}
    with gpu():
        mask = F.dropout_mask(**of, device=DEVICE).cpu()
        packed = F.dropout_mask(**of, packed=True, device=DEVICE).cpu()
    assert mask.shape == torch.Size(known["shape"])
    assert packed.numpy().tobytes().hex() == known["packed"]
    assert packed_bytes(mask).hex() == known["packed"]
    for element, kept in known["ties"]:
        assert mask.flatten()[element] == kept


def write(memory: Tensor, n: int, packed: bool, p: float, seed: int | Tensor) -> None:
    with gpu():
        _runtime.kernels.write_mask(memory, n, packed, seed, 0, threshold(p), 1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("p", [0.0, 1e-3, 1 / 3, 1.0])
def test_nothing_outside_is_written(p: float, packed: bool, order: str) -> None:
    """The bytes around a mask, aligned or not, keep their values."""
    guard, around = 0xA5, 80
    longest = flags(np.arange(max(NEAR_BOUNDARIES), dtype=np.uint64), 7, 0, threshold(p))
    for i, n in enumerate([1, 7, 8, 9, *NEAR_BOUNDARIES[:20]]):
        kept = longest[:n]
        expected = packed_bytes(kept) if packed else kept.tobytes()
        begin, size = around + i % 9, len(expected)
        memory = torch.full((size + 2 * around + 9,), guard, dtype=torch.uint8, device=DEVICE)
        write(memory[begin : begin + size], n, packed, p, 7)
        assert memory[begin : begin + size].cpu().numpy().tobytes() == expected
        assert (memory[:begin] == guard).all()
        assert (memory[begin + size :] == guard).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 40_000), PROBABILITIES, WORDS, WORDS)
def test_any_mask_equals_reference(n: int, p: float, seed: int, offset: int) -> None:
    expected = flags(np.arange(n, dtype=np.uint64), seed, offset, threshold(p))
    with gpu():
        mask = F.dropout_mask(n, p, seed=seed, offset=offset, device=DEVICE)
        packed = F.dropout_mask(n, p, seed=seed, offset=offset, packed=True, device=DEVICE)
    assert mask.device.type == packed.device.type == DEVICE.type
    np.testing.assert_array_equal(mask.cpu().numpy(), expected)
    assert packed.cpu().numpy().tobytes() == packed_bytes(expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 40), WORDS, WORDS)
def test_ties(element: int, after: int, seed: int, offset: int) -> None:
    """The probability is chosen to make the element a tie: 32 more bits keep it, and drop it one step further."""
    word = int(philox(seed, counters(element // 8, 1), offset)[0, element % 8 // 2])
    first = word >> 16 if element % 2 else word & 0xFFFF
    other = int(philox(seed, counters(element + 2**63, 1), offset)[0, 0])
    for step, kept in ((0, True), (1, False)):
        p = ((first << 32) + other + step) * STEP
        with gpu():
            mask = F.dropout_mask(element + after, p, seed=seed, offset=offset, device=DEVICE)
            dropped = F.dropout(torch.ones(element + after, device=DEVICE), p, seed=seed, offset=offset)
        assert mask[element] == kept
        assert (dropped[element] != 0) == (kept and threshold(p) != CERTAIN)


@pytest.mark.parametrize("packed", [False, True])
def test_a_seed_that_only_the_device_knows(packed: bool) -> None:
    seed = torch.tensor(-3, device=DEVICE)
    memory = torch.empty(100, dtype=torch.uint8, device=DEVICE)
    write(memory, 100, packed, 0.5, seed)
    expected = F.dropout_mask(100, 0.5, seed=2**64 - 3, packed=packed).view(torch.uint8)
    assert torch.equal(memory[: len(expected)].cpu(), expected)
