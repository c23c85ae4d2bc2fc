"""RMSNorm's and LayerNorm's kernels on a device have the CPU's bits."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from fastopt import _runtime
from gpu import DEVICE, emulator, gpu
from norm_calls import ACTIVATIONS, GRADIENTS, ROWS, Norm
from support import DTYPES, HALF, Guarded, assert_same_bits

# Rows below and above a lane, a piece of 1024, a flush block of 4096 and a chunk of 65536; whole vectors and not.
LENGTHS = [1, 7, 31, 32, 33, 256, 260, 1023, 1024, 1025, 1032, 2056, 4095, 4096, 4097, 4104]
LONG = [8192, 12_300, 65_536, 65_544, 70_001]


def row_norm(kind: str, rows: int, n: int, dtype: torch.dtype = torch.float32, **options: object) -> Norm:
    parameters = "weight bias" if kind == "layer" else "weight"
    return Norm(kind, (rows, n), n, dtype, **{"parameters": parameters, **options})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("n", LENGTHS)
def test_lengths(n: int, kind: str, dtype: torch.dtype) -> None:
    row_norm(kind, 5, n, dtype).check()
    row_norm(kind, 3, n, dtype, residual=True, wide=False, activation="silu").check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", LONG)
def test_long_rows(n: int, dtype: torch.dtype) -> None:
    row_norm("layer", 2, n, dtype, residual=n == 8192).check()
    row_norm("rms", 1, n, dtype).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("rows", [1, 4, 5, 129, 300])
def test_numbers_of_rows(rows: int, kind: str, dtype: torch.dtype) -> None:
    row_norm(kind, rows, 16, dtype).check()


def test_flush_blocks_of_rows(order: str) -> None:
    """Several flush blocks in a chunk of rows; the last chunk is shorter. Float64 shows the order of sums."""
    row_norm("layer", 2100, 32, torch.float64).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_columns_in_vectors(dtype: torch.dtype) -> None:
    """So many columns that a thread takes 16 bytes of them."""
    width = 16 // dtype.itemsize
    rows, n = 33, 4096 * width
    row_norm("rms", rows, n, dtype, wanted=("grad_weight",)).check()
    row_norm("layer", rows, n, dtype, wanted=("grad_weight", "grad_bias"), activation="relu").check()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    for kind in ROWS:
        for dtype in DTYPES:
            for n in (40, 43):
                row_norm(kind, 6, n, dtype, activation=activation).check()


@pytest.mark.parametrize("parameters", ["", "weight", "weight bias"])
@pytest.mark.parametrize("wide", [False, True])
def test_parameters(parameters: str, wide: bool) -> None:
    for kind in ROWS[: 3 if parameters != "weight bias" else 0] or ["layer"]:
        for dtype in DTYPES:
            for n in (64, 65, 1032):
                for activation in ("identity", "gelu"):
                    row_norm(kind, 3, n, dtype, activation=activation, parameters=parameters, wide=wide).check()


@pytest.mark.parametrize("kind", ROWS)
def test_what_is_wanted(kind: str) -> None:
    for count in range(4):
        for wanted in combinations(GRADIENTS, count):
            row_norm(kind, 9, 48, wanted=wanted, activation="silu").check()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("kind", ROWS)
def test_empty(shape: tuple[int, int], kind: str) -> None:
    row_norm(kind, *shape).check()


SPECIAL = [0.0, -0.0, 1.0, -2.5, 1e-30, -1e-42, 3e38, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ROWS)
def test_special_values(kind: str, activation: str) -> None:
    norm = row_norm(kind, 4, 40, activation=activation)
    for seed in range(5):
        operands = norm.operands()
        chosen = torch.randint(seed, len(SPECIAL) - seed, (4, 40), generator=torch.Generator().manual_seed(seed))
        operands["input"] = torch.tensor(SPECIAL)[chosen]
        norm.check(operands=operands)


def test_large_means() -> None:
    for kind in ROWS:
        row_norm(kind, 5, 300, shift=1e6).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("misalign", [0, 1, 3])
@pytest.mark.parametrize("n", [32, 65, 1032])
def test_nothing_is_written_outside(n: int, misalign: int, dtype: torch.dtype) -> None:
    guards = []

    def guarded(tensor: Tensor) -> Tensor:
        guards.append(Guarded(tensor.numel(), tensor.dtype, misalign, DEVICE))
        return guards[-1].inside.copy_(tensor.flatten()).view(tensor.shape)

    for kind in ROWS:
        row_norm(kind, 7, n, dtype, residual=True, activation="relu").check(guarded)
    for guard in guards:
        guard.check()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_in_place(dtype: torch.dtype) -> None:
    """The sum may be written onto the residual."""
    norm = row_norm("rms", 5, 64, dtype, residual=True)
    operands = norm.operands()
    expected = operands["input"] + operands["residual"]
    x, residual = (operands[name].to(DEVICE, copy=True) for name in ("input", "residual"))
    out, statistics = torch.empty_like(x), torch.empty(2, 5, dtype=torch.float64, device=DEVICE)
    with gpu():
        how = ("rms", 64, 1e-5, "identity", 0.0, 2)
        assert _runtime.kernels.norm(out, residual, x, residual, None, None, statistics, *how)
    assert_same_bits(residual.cpu(), expected)


@pytest.mark.skipif(emulator is None, reason="a GPU does not count its launches")
def test_launches() -> None:
    """One launch forward, and backward one for the input and two for weight and bias."""
    for wanted, backward in ((GRADIENTS, 3), (GRADIENTS[:1], 1), (GRADIENTS[1:], 2)):
        emulator.clear_launches()
        row_norm("layer", 9, 48, residual=True, wanted=wanted).check()
        assert len(emulator.launches()) == 1 + backward


@pytest.mark.skipif(emulator is None, reason="a GPU fails when it likes")
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_barriers_are_needed(kind: str) -> None:
    """Without its barriers a team of several warps, or of one, computes something else."""
    for n, of_block in ((4104, True), (256, False)):
        emulator.skip_barriers(of_block=of_block, of_warp=not of_block)
        with pytest.raises(AssertionError):
            row_norm(kind, 3, n).check()
        emulator.reset()
