"""The activations after a batch normalization, and our own e^x, compared with torch's in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastopt.nn.functional as F
from batch_norm_cases import ACTIVATIONS
from fastopt import _core, reference
from fastopt.reference.exponential import exponential, exponential_less_1, normal

NAMES = [name for name in ACTIVATIONS if name]


def applied(name: str, z: torch.Tensor) -> torch.Tensor:
    """The activation alone: with a mean of 0 and a variance of 1, nothing changes before it."""
    one = torch.ones(1, dtype=z.dtype)
    return F.batch_norm(z.view(-1, 1), torch.zeros_like(one), one, eps=0.0, activation=name, negative_slope=0.2).view(
        -1
    )


def torchs(name: str, z: torch.Tensor) -> torch.Tensor:
    function = getattr(torch.nn.functional, name)
    result: torch.Tensor = function(z, 0.2) if name == "leaky_relu" else function(z)
    return result


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-7), (torch.float64, 2e-15)])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_slopes(name: str, dtype: torch.dtype, tolerance: float) -> None:
    z = torch.cat([torch.linspace(-20, 20, 40_001, dtype=dtype), torch.tensor([-1e4, 1e4, -1e-6, 1e-6], dtype=dtype)])
    ours, theirs = z.clone().requires_grad_(), z.double().requires_grad_()
    y, expected = applied(name, ours), torchs(name, theirs)
    scale = expected.abs().clamp(min=1)
    assert ((y - expected) / scale).abs().max() < tolerance
    (slope,) = torch.autograd.grad(y.sum(), ours)
    (expected_slope,) = torch.autograd.grad(expected.sum(), theirs)
    smooth = (z.abs() > 1e-5) & ((z.abs() - 3).abs() > 1e-5) & ((z - 6).abs() > 1e-5)
    assert (slope - expected_slope)[smooth].abs().max() < 4 * tolerance


@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity(name: str) -> None:
    y = applied(name, torch.tensor([float("nan"), float("inf")]))
    assert y[0].isnan()
    assert y[1] == (6 if name == "relu6" else float("inf"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_slopes_at_kinks(name: str, dtype: torch.dtype) -> None:
    """Slopes at kinks are those that torch has chosen."""
    slopes = []
    for function in (applied, torchs):
        z = torch.tensor([-3.0, 0.0, 3.0, 6.0], dtype=dtype, requires_grad=True)
        slopes.append(torch.autograd.grad(function(name, z).sum(), z)[0])
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slope_of_gelu_at_infinity(dtype: torch.dtype) -> None:
    """The slope is defined at infinity, where torch's is NaN."""
    z = torch.tensor([float("inf")], dtype=dtype, requires_grad=True)
    assert torch.autograd.grad(applied("gelu", z).sum(), z)[0] == 1


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float32, 2), (np.float64, 2)])
def test_exponential(dtype: type, ulps: int) -> None:
    x = np.linspace(-87 if dtype is np.float32 else -708, 88 if dtype is np.float32 else 709, 100_001).astype(dtype)
    expected = np.exp(x.astype(np.longdouble))
    assert (np.abs(exponential(x) / expected - 1) / np.finfo(dtype).eps).max() < ulps
    small = np.concatenate([-np.logspace(-30, 0, 1000), np.linspace(-80, 0, 1001)[:-1]]).astype(dtype)
    relative = exponential_less_1(small) / np.expm1(small.astype(np.longdouble)) - 1
    assert (np.abs(relative) / np.finfo(dtype).eps).max() < 2 * ulps


def test_normal_distribution() -> None:
    z = torch.linspace(-8, 8, 10_001, dtype=torch.float64)
    below = torch.from_numpy(normal(z.numpy())[1])
    expected = torch.special.erfc(-z / 2**0.5) / 2
    assert ((below - expected) / expected).abs().max() < 1e-13


def test_every_activation_has_a_twin() -> None:
    assert set(_core.activations()) == set(reference.activations.ACTIVATIONS)
    assert set(_core.activations()) == {name or "identity" for name in ACTIVATIONS}
