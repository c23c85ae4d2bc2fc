"""Statistics are right even where float32 sums are not: compared with a computation in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastopt.nn.functional as F
from batch_norm_cases import layout_of

SHAPES = [(256, 8, 56, 56), (256, 2, 112, 112), (32, 64, 28, 28), (64, 256, 7, 7), (4096, 100), (2000, 3, 4, 4)]


def statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Result, mean and biased variance. With a momentum of 1, the running statistics are those of this batch."""
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
def test_difficult_inputs(channels_last: bool) -> None:
    """Inputs after a ReLU, a constant channel, an outlying first sample, a slope, one element of 1e6: no error is worse
    than that of 128 additions in float32."""
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


def flush_blocks(blocks: Tensor, channels_last: bool) -> Tensor:
    """Takes blocks of 4096 numbers of a channel, (channels, blocks, 4096). Lays them out so that the first 256 of each
    are the first 8 of 128 rows of a flush block; in channels-last memory, each becomes 32 blocks."""
    channels, count, _ = blocks.shape
    if channels_last:
        blocks = blocks.view(channels, count, 128, 32).transpose(2, 3)
    x = blocks.reshape(channels, count, 64, 64).transpose(0, 1)
    return x.contiguous(memory_format=layout_of(x.shape, channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
def test_beginnings_that_are_no_sample(channels_last: bool) -> None:
    """The shift that is subtracted before squaring is off by sqrt(15) standard deviations, the most that is possible.
    Equal numbers are rounded alike, so that errors add up."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand((1024, 1, 1), generator=generator).mul_(5).exp_().expand(1024, 2, 4096).clone()
    blocks[:, :, :256] = 0
    for noise, bound in ((0.0, 47 * 128 * 2**-24), (1e-3, 1e-5)):
        blocks[:, :, 256:] *= 1 + noise * torch.randn((1024, 2, 3840), generator=generator)
        _, _, var = statistics(flush_blocks(blocks, channels_last))
        expected = blocks.double().flatten(1).var(1, correction=0)
        assert ((var - expected) / expected).abs().max() < bound


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("value", [0.1, 1e4, -1e10, 3e37])
def test_constant_channels(value: float, channels_last: bool) -> None:
    """A constant channel has no variance, whatever the number of rows."""
    for shape in ((3, 2, 5, 5), (7, 64, 1, 1), (33, 40, 3, 3), (3, 40, 30, 47)):
        x = torch.full(shape, value).contiguous(memory_format=layout_of(shape, channels_last))
        y, mean, var = statistics(x)
        assert torch.equal(mean, x[0, :, 0, 0])
        assert not var.any()
        assert not y.any()


def test_offset_beyond_float32() -> None:
    """Results are centred although the mean of the channel lies between two float32 numbers."""
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
