"""Masks behave like independent draws with the given probability, and the family keeps the moments that it promises.

All seeds are fixed, so that every run gives the same result. The bounds are set as if it could differ: the z of a
correct mask is above 5 once in 1.7 million draws, above 6 once in 500 million. A chi-square is turned into a z that
must not be far from 0 on either side: counts that are too even are not random either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastopt.nn.functional as F
from fastopt.nn._dropout.mask import threshold
from support import DTYPES, running

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]

PROBABILITIES = [1e-3, 0.05, 0.1, 0.25, 0.5, 0.9, 0.999]
COMMON = [0.05, 0.25, 0.5, 0.9]  # 2**20 draws are enough for sums that are nearly normal
MILLION = 2**20


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with running(threads=2):
        yield


def kept(shape: int | tuple[int, ...], p: float, seed: int = 1, offset: int = 0) -> Array:
    array: Array = F.dropout_mask(shape, p, seed=seed, offset=offset).numpy()
    return array


def variance(p: float) -> float:
    """The variance of one flag."""
    return p * (1 - p)


def z_of_chi_square(chi_square: float, freedom: int) -> float:
    """A normal number of the same likelihood (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * freedom)
    return ((chi_square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def z_of_counts(counts: Array, draws: int, p: float) -> float:
    """The z of counts: how often each of many events of probability 1 - p has occurred in `draws` draws."""
    return z_of_chi_square(float(((counts - draws * (1 - p)) ** 2).sum() / (draws * variance(p))), counts.size)


def z_of_correlation(first: Array, second: Array, p: float) -> float:
    """The z of two masks' correlation, p known. Its square is the part of a 2x2 table's chi-square for dependence."""
    both = np.count_nonzero(first & second)
    either = np.count_nonzero(first) + np.count_nonzero(second)
    covariance = both - (1 - p) * either + first.size * (1 - p) ** 2
    return float(covariance / (variance(p) * math.sqrt(first.size)))


@pytest.mark.parametrize("p", PROBABILITIES)
def test_rate_at_every_position(p: float) -> None:
    """1e8 draws have the right rate, in total and by position modulo 256, which would show a bad lane of a vector."""
    size, masks, positions = 2**22, 24, 256
    counts = np.zeros(positions, np.int64)
    for offset in range(masks):
        counts += kept((size // positions, positions), p, seed=99, offset=offset).sum(axis=0, dtype=np.int32)
    draws = size * masks
    assert abs(counts.sum() - draws * (1 - p)) < 5 * math.sqrt(draws * variance(p))
    assert abs(z_of_counts(counts, draws // positions, p)) < 5


def test_rate_of_a_probability_that_only_ties_decide() -> None:
    """One in a million of 2**27 elements is dropped: 134."""
    p, n = 1e-6, 2**27
    packed = F.dropout_mask(n, p, seed=4, packed=True).numpy()
    dropped = int(np.unpackbits(~packed[packed != 0xFF]).sum())
    assert abs(dropped - n * p) < 5 * math.sqrt(n * variance(p))


LAGS = [*range(1, 65), 127, 128, 129, *(2**k for k in range(8, 20))]


@pytest.mark.parametrize("p", PROBABILITIES)
def test_elements_do_not_depend_on_earlier_ones(p: float) -> None:
    """Flags are not correlated at any lag. At the rarest p, pairs are so few (17) that z exceeds 5 once in 100 000."""
    mask = kept(2**24 if min(p, 1 - p) < 0.01 else 2**22, p, seed=5)
    for lag in LAGS:
        assert abs(z_of_correlation(mask[lag:], mask[:-lag], p)) < 5, lag


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_rows_and_columns_are_independent(p: float, axis: int) -> None:
    """Each row or column has the right rate, and no two of 256 are correlated."""
    lines, length = 256, 2**15
    mask = kept((length, lines) if axis else (lines, length), p, seed=6)
    flags = (mask.T if axis else mask).astype(np.float32)
    assert abs(z_of_counts(flags.sum(axis=1), length, p)) < 5
    centred = flags - np.float32(1 - p)
    z = (centred @ centred.T)[np.triu_indices(lines, 1)] / (variance(p) * math.sqrt(length))
    assert np.abs(z).max() < 6  # the largest of 32640
    assert abs(z_of_chi_square(float((z.astype(np.float64) ** 2).sum()), z.size)) < 5


def neighbours(word: int) -> list[int]:
    """The words that follow this one, and the ones that differ in one bit."""
    return [*range(word + 1, word + 17), *(word ^ 1 << bit for bit in range(64))]


@pytest.mark.parametrize("p", COMMON)
def test_masks_of_neighbouring_seeds_and_offsets_are_independent(p: float) -> None:
    seed, offset = 0x0123456789ABCDEF, 2**32 - 8
    mask = kept(MILLION, p, seed, offset)
    others = [(other, offset) for other in neighbours(seed)] + [(seed, other) for other in neighbours(offset)]
    for other in [*others, (offset, seed)]:
        assert abs(z_of_correlation(mask, kept(MILLION, p, *other), p)) < 5, other


def test_an_element_has_its_rate_over_many_seeds() -> None:
    """A few elements have the right rate over many masks."""
    n, masks, p = 96, 20_000, 0.3
    counts = np.zeros(n, np.int64)
    for seed in range(masks):
        counts += kept(n, p, seed)
    assert abs(z_of_counts(counts, masks, p)) < 5


def test_no_two_of_many_calls_share_a_mask() -> None:
    """Seeds drawn from torch's generator have 63 bits: two of 2e5 coincide once in 460 million runs. With 32 bits, 99
    of 100 runs would have such a pair."""
    torch.manual_seed(0)
    ones, calls = torch.ones(256), 200_000
    masks = {np.packbits(F.dropout(ones).numpy() != 0).tobytes() for _ in range(calls)}
    assert len(masks) == calls


def normal(dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.random.default_rng(8).standard_normal(4 * MILLION)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_expectation_is_the_input(dtype: torch.dtype) -> None:
    """The bound includes the rounding of the result: bfloat16 has no number between 1 and 1.008."""
    x = normal(dtype).abs()
    power, rounding = x.double().square().mean().item(), torch.finfo(dtype).eps / 2
    for p in PROBABILITIES:
        y = F.dropout(x, p, seed=9).double()
        bound = 5 * math.sqrt(power * p / (1 - p) / y.numel()) + rounding * y.mean()
        assert abs((y - x).mean()) < bound, p


def test_scale_is_that_of_the_probability_drawn() -> None:
    """Kept elements are scaled by the rate that is drawn, if p is not a multiple of 2**-48."""
    for p in [1e-14, 1e-6, 1 / 3, 1 - 1e-14]:
        drawn = threshold(p) / 2**48
        y = F.dropout(torch.ones(2**16, dtype=torch.float64), p, seed=0)
        assert ((y == 0) | (y == 1 / (1 - drawn))).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_alpha_dropout_keeps_mean_and_variance(dtype: torch.dtype) -> None:
    """All dropped elements are the same number; the bound includes its rounding to a half type, and nothing else."""
    x, rounding = normal(dtype), torch.finfo(dtype).eps / 2
    for p in PROBABILITIES:
        y = F.alpha_dropout(x, p, training=True, seed=10).double()
        squares = y.square()
        assert abs(y.mean()) < 5 / math.sqrt(y.numel()) + rounding * y.abs().mean(), p
        assert abs(squares.mean() - 1) < 5 * squares.std() / math.sqrt(y.numel()) + 2 * rounding, p


CHANNELS = [
    (F.dropout1d, (2048, 64, 3)),
    (F.dropout2d, (2048, 64, 2, 2)),
    (F.dropout3d, (2048, 64, 2, 1, 2)),
    (F.feature_alpha_dropout, (2048, 64, 5)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("function", "shape"), CHANNELS, ids=lambda value: getattr(value, "__name__", ""))
def test_channels_are_dropped_whole_and_independently(
    function: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    for p in COMMON:
        y = function(torch.ones(shape, dtype=dtype), p, training=True, seed=11).flatten(2)
        assert (y == y[:, :, :1]).all()
        channels = (y[:, :, 0] > 0).numpy()
        assert abs(channels.sum() - channels.size * (1 - p)) < 5 * math.sqrt(channels.size * variance(p))
        assert abs(z_of_correlation(channels[:, 1:], channels[:, :-1], p)) < 5, "neighbouring channels"
        assert abs(z_of_correlation(channels[1:], channels[:-1], p)) < 5, "neighbouring samples"
        assert abs(z_of_counts(channels.sum(axis=0), len(channels), p)) < 5, "a channel's rate"
        assert abs(z_of_counts(channels.sum(axis=1), len(channels.T), p)) < 5, "a sample's rate"
