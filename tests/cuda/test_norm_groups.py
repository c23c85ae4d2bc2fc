"""GroupNorm's and InstanceNorm's kernels on a device have the CPU's bits."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from gpu import DEVICE, emulator
from norm_calls import ACTIVATIONS, GRADIENTS, Norm
from support import DTYPES, Guarded

# Planes: inner dimensions from 16 on; pieces of one segment and parts of one. Small ones: sets are planes, channels are
# columns. (N, C), an only channel, a group of more than 32 channels, samples that do not begin at 16 bytes.
SHAPES = [
    *[((3, 6, 4, 4), 2), ((2, 8, 5, 7), 4), ((2, 6, 33, 40), 3), ((1, 2, 70, 64), 1), ((5, 4, 300), 4)],
    *[((3, 6, 3, 4), 2), ((3, 6, 5), 3), ((2, 80, 2), 2), ((4, 24), 3), ((7, 10), 10), ((3, 1, 5), 1), ((3, 1, 40), 1)],
    *[((2, 80, 16), 2), ((3, 5, 3), 1), ((1, 12, 4, 4), 3), ((1, 4), 2)],
]
LAST = [
    ((3, 6, 4, 4), 2),
    ((2, 24, 5, 7), 4),
    ((2, 80, 3, 3), 2),
    ((5, 7, 9, 9), 7),
    ((2, 3, 70, 70), 1),
    ((1, 8, 9, 9), 2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
def test_shapes(shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> None:
    for size in {groups, shape[1]}:
        Norm("group", shape, size, dtype).check()
        Norm("group", shape, size, dtype, activation="silu", residual=True, wide=False).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "groups"), LAST, ids=str)
def test_channels_last(shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> None:
    for size in {groups, shape[1]}:
        Norm("group", shape, size, dtype, channels_last=True).check()
        Norm("group", shape, size, dtype, activation="relu", residual=True, channels_last=True).check()


@pytest.mark.parametrize(
    ("shape", "last"), [((2, 2, 300, 310), False), ((2, 2, 300, 310), True), ((20_000, 2, 3), False)]
)
def test_chunks(shape: tuple[int, ...], last: bool, order: str) -> None:
    """Several chunks of a set, and many samples. Float64 shows the order of sums."""
    Norm("group", shape, 1, torch.float64, channels_last=last).check()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    for last in (False, True):
        for dtype in DTYPES:
            Norm("group", (3, 8, 5, 7), 2, dtype, activation, channels_last=last).check()
            Norm("group", (3, 8, 5, 7), 8, dtype, activation, channels_last=last).check()


@pytest.mark.parametrize("parameters", ["", "weight", "bias"])
def test_parameters(parameters: str) -> None:
    for shape in ((3, 6, 4, 5), (3, 6, 5)):
        for size in (2, 6):
            Norm("group", shape, size, activation="gelu", parameters=parameters).check()


def test_what_is_wanted() -> None:
    for count in range(4):
        for wanted in combinations(GRADIENTS, count):
            for shape, size in (((3, 6, 4, 5), 2), ((3, 6, 5), 6), ((1, 6, 4, 5), 2)):
                Norm("group", shape, size, wanted=wanted, activation="silu").check()


@pytest.mark.parametrize("shape", [(0, 6, 4, 4), (3, 6, 0), (0, 6)])
def test_empty(shape: tuple[int, ...]) -> None:
    for size in (2, 6):
        Norm("group", shape, size).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("misalign", [0, 1, 3])
def test_nothing_is_written_outside(misalign: int, dtype: torch.dtype) -> None:
    guards = []

    def guarded(tensor: Tensor) -> Tensor:
        guards.append(Guarded(tensor.numel(), tensor.dtype, misalign, DEVICE))
        strided = guards[-1].inside.as_strided(tensor.shape, tensor.stride())
        return strided.copy_(tensor)

    for shape, size, last in (((3, 8, 5, 7), 4, False), ((3, 8, 5, 7), 4, True), ((3, 8, 3), 4, False)):
        Norm("group", shape, size, dtype, "relu", residual=True, channels_last=last).check(guarded)
    for guard in guards:
        guard.check()


@pytest.mark.skipif(emulator is None, reason="a GPU does not count its launches")
@pytest.mark.parametrize("last", [False, True])
def test_launches(last: bool) -> None:
    """Three launches forward; backward up to five: sums, their join, the projection, parameters, elements."""
    for samples, size, residual, count in (
        (3, 2, False, 8),
        (3, 6, False, 7),
        (1, 2, False, 7),
        (1, 6, False, 6),
        (3, 2, True, 9),
    ):
        emulator.clear_launches()
        Norm("group", (samples, 6, 8, 8), size, channels_last=last, residual=residual).check()
        assert len(emulator.launches()) == count
