"""Results of the norms of single samples are right at any mean: compared with a computation in float64."""

from __future__ import annotations

import pytest
import torch

from batch_norm_cases import layout_of
from norm_cases import GROUP, INSTANCE, KINDS, LAYER, RMS, Kind, Problem

SHAPES = [
    *[(RMS, (64, 4096), 1), (LAYER, (64, 4096), 1), (LAYER, (3000, 40), 1), (LAYER, (2, 70_001), 1)],
    *[(GROUP, (8, 64, 28, 28), 32), (GROUP, (4, 32, 56, 56), 8), (INSTANCE, (4, 16, 56, 56), 16)],
]


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
@pytest.mark.parametrize(("kind", "shape", "groups"), SHAPES, ids=lambda v: getattr(v, "name", str(v)))
def test_large_means(kind: Kind, shape: tuple[int, ...], groups: int, mean: float) -> None:
    """The error is at most a thousandth of a standard deviation."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).add_(mean)
    argument = kind.argument(shape, groups)
    for layout in {torch.contiguous_format, layout_of(shape, len(shape) == 4)}:
        given = x.contiguous(memory_format=layout)
        expected = kind.theirs(x.double(), *argument, eps=1e-12)
        found = kind.ours(given, *argument, eps=1e-12)
        assert (found - expected).abs().max() < (1e-3 if mean == 1e4 else 1e-4 if mean else 1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_constant_rows(kind: Kind) -> None:
    """A constant has no deviation, whatever its value."""
    for value in (0.1, 1e4, -1e10, *([] if kind is RMS else [3e37])):
        x = torch.full((3, 4, 30, 47), value)
        y = kind.ours(x, *kind.argument((3, 4, 30, 47), 2), eps=1e-12)
        if kind is RMS:
            torch.testing.assert_close(y.abs(), torch.ones_like(y))
        else:
            assert not y.any()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_halves_are_summed_in_float32(kind: Kind) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.randn((4, 8, 56, 56), generator=torch.Generator().manual_seed(0)).add_(3).to(dtype)
        argument = kind.argument((4, 8, 56, 56), 4)
        exact = kind.theirs(x.double(), *argument, eps=1e-5)
        torch.testing.assert_close(kind.ours(x, *argument, eps=1e-5), exact.to(dtype), rtol=1e-2, atol=1e-2)


def test_large_values() -> None:
    """The sums of these values overflow, their deviations do not."""
    x = torch.full((2, 4, 32, 32), 3e37) + 1e32 * torch.randn((2, 4, 32, 32))
    for kind in (LAYER, GROUP, INSTANCE):
        assert Problem(kind, (2, 4, 32, 32), 2, affine=False).call({"input": x}).isfinite().all()
