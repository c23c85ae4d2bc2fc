"""Statistics are right where float32 sums are not: beside a float64 computation."""

from __future__ import annotations

import pytest
import torch

import fastopt.nn.functional as F
from norms import layout_of

SHAPES = [(256, 8, 56, 56), (256, 2, 112, 112), (32, 64, 28, 28), (64, 256, 7, 7), (4096, 100), (2000, 3, 4, 4)]


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Result, mean and biased variance, by way of running statistics that keep nothing."""
    mean, var = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    y = F.batch_norm(x, mean, var, training=True, momentum=1.0, eps=1e-12)
    n = x.numel() / x.shape[1]
    return y, mean, var.double() * (n - 1) / n


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mean", [0.0, 10.0, 1e3, 1e4])
def test_large_means(shape: tuple[int, ...], mean: float, channels_last: bool) -> None:
    if len(shape) == 2 and channels_last:
        shape = (*shape, 1, 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).add_(mean)
    x = x.contiguous(memory_format=layout_of(shape, channels_last))
    y, ours, var = statistics(x)
    exact = x.double()
    dims = [d for d in range(x.ndim) if d != 1]
    expected_var, expected_mean = torch.var_mean(exact, dims, correction=0, keepdim=True)
    assert ((var - expected_var.flatten()) / expected_var.flatten()).abs().max() < 1e-6
    assert (ours - expected_mean.flatten()).abs().max() <= max(1e-6, mean * 1e-7)
    expected = (exact - expected_mean).div_(expected_var.sqrt())
    assert (y - expected).abs().max() < (1e-3 if mean == 1e4 else 1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_neighbours_cases(channels_last: bool) -> None:
    """Inputs after a ReLU, a constant channel, one whose beginning lies far off, a slope, one element of 1e6. No
    input is worse than 128 additions in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((64, 5, 64, 64), generator=generator).relu_()
    x[:, 1] = 0.1
    x[0, 2] += 1e5
    x[:, 3] += torch.arange(64.0).square()[:, None]
    x[0, 4, 0, 0] = 1e6
    x = x.contiguous(memory_format=layout_of(x.shape, channels_last))
    y, _, var = statistics(x)
    exact = x.double().transpose(0, 1).reshape(5, -1)
    expected = exact.var(1, correction=0)
    error = ((var - expected) / expected).abs()
    assert error[0] < 1e-6
    assert error[2:].max() < 128 * 2**-24
    assert var[1] < 1e-12
    assert (y[:, 0] - (exact[0] - exact[0].mean()).div(expected[0].sqrt()).view(64, 64, 64)).abs().max() < 1e-5


def test_offset_beyond_float32() -> None:
    """The mean of a channel lies between two float32 numbers: results are centred all the same."""
    x = torch.randn((50, 1, 1000), generator=torch.Generator().manual_seed(0)).mul_(1e-2).add_(1e4)
    y, _, _ = statistics(x)
    assert abs(y.double().mean()) < 1e-6
    assert abs(y.double().std() - 1) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_summed_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn((256, 4, 56, 56), generator=torch.Generator().manual_seed(0)).add_(3).to(dtype)
    y, ours, var = statistics(x)
    exact = x.double().transpose(0, 1).reshape(4, -1)
    assert (ours - exact.mean(1)).abs().max() < 1e-6
    assert (var / exact.var(1, correction=0) - 1).abs().max() < 1e-6
    assert y.dtype == dtype
