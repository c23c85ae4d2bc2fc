"""Layers that add before a norm, for tests of fuse="trace"."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt.nn
from fastopt.nn._norm import fusion
from fastopt.nn._rms_forms import _Gemma, _Llama
from support import HALF, assert_same_bits, some_values

SHAPE = (3, 8, 6)


class OwnRMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = 1e-6

    forward = _Llama.forward


class OtherRMSNorm(OwnRMSNorm):
    """Gemma's."""

    _norm = _Gemma._norm
    forward = _Gemma.forward


NORMS: dict[str, Callable[[], nn.Module]] = {
    "rms": lambda: nn.RMSNorm(6),
    "layer": lambda: nn.LayerNorm(6),
    "layer of two": lambda: nn.LayerNorm((8, 6)),
    "group": lambda: nn.GroupNorm(2, 8),
    "instance": lambda: nn.InstanceNorm1d(8, affine=True, track_running_stats=True),
    "llama": lambda: OwnRMSNorm(6),
    "gemma": lambda: OtherRMSNorm(6),
    "active": lambda: fastopt.nn.LayerNorm(6, activation="silu"),
}


class Layer(nn.Module):
    """A layer as in transformers: norm, part, addition, norm, part, addition."""

    def __init__(self, norm: Callable[[], nn.Module] = NORMS["llama"], add: Any = lambda a, b: a + b) -> None:
        super().__init__()
        self.norm1, self.part1, self.norm2, self.part2 = norm(), nn.Linear(6, 6), norm(), nn.Linear(6, 6)
        self.add, self.first = add, False
        if isinstance(self.norm2, nn.GroupNorm):
            self.norm1 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        x = self.part1(self.norm1(x))
        x = residual = self.add(residual, x)
        x = self.part2(self.norm2(x))
        return self.add(residual, x)


def values(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> Tensor:
    return (some_values(shape, torch.float64, seed) * 2).to(dtype)


def pair_of(model: nn.Module, dtype: torch.dtype = torch.float32, example: Any = None) -> tuple[Any, Any]:
    """The converted model, and the same with traces."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    plain = fastopt.nn.convert(copy.deepcopy(model).to(dtype))
    example = values(dtype) if example is None else example
    return plain, fastopt.nn.convert(copy.deepcopy(model).to(dtype), fuse="trace", example=example)


def joined(model: Any) -> set[str]:
    return {name for graph in getattr(model, "_graphs", []) for name in graph.found}


@pytest.fixture(name="passes")
def passes_fixture(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each addition was one pass with its norm."""
    found: list[bool] = []

    def noted(a: Any, b: Any, real: Any = fusion._adds_alike) -> bool:
        found.append(real(a, b))
        return found[-1]

    monkeypatch.setattr(fusion, "_adds_alike", noted)
    return found


def assert_alike(theirs: nn.Module, ours: nn.Module, *inputs: Any) -> None:
    """Results to the bit, because both use the same kernels; gradients to rounding, because fused ones round once."""
    found = []
    for model in (theirs, ours):
        given = [x.clone().requires_grad_() for x in inputs]
        y = model(*given)
        y.float().square().sum().backward()
        grads = [x.grad for x in (*given, *model.parameters()) if x.grad is not None]
        found.append([y.detach(), *grads])
        model.zero_grad()
    for mine, other in zip(found[1], found[0], strict=True):
        assert_same_type(mine, other)
        tolerance = 0.02 if mine.dtype in HALF else 1e-5
        assert (mine - other).abs().max() <= tolerance * other.abs().max()
    assert_same_bits(found[1][0], found[0][0])


def assert_same_type(mine: Tensor, other: Tensor) -> None:
    assert (mine.dtype, mine.shape, mine.stride()) == (other.dtype, other.shape, other.stride())


class Sum(nn.Module):
    """An addition of any two arguments."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Any, y: Any) -> Tensor:
        h = x + y
        return self.norm(h) * h
