"""Adafactor on a device equals the NumPy reference to the bit, wherever bands, tiles, chunks and lanes cut its sums."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from gpu import DEVICE, assert_same, emulator, gpu
from support import DTYPES, HALF, Guarded, assert_same_bits, running, some_values

Shape = tuple[int, ...]
SHAPES: dict[str, list[Shape]] = {
    # A band has 8 rows, a tile 64. A lane takes every 32nd column; a tile has 256 columns.
    "tiles": list(itertools.product([1, 7, 8, 9, 63, 64, 65], [1, 2, 31, 32, 33, 255, 256, 257])),
    "stacks": [(5, 3, 3), (2, 3, 65, 33), (70, 1, 1), (300, 2, 1), (9, 1, 40), (3, 20, 5), (2, 130, 300)],
    # Full tiles, of which a thread takes pairs of a half type where they are aligned: every second one.
    "full": [s for s in [(1, 256), (15, 512), (64, 768), (130, 256), (3, 20, 512), (5, 1, 256)] for _ in range(2)],
    # These have more parts than lanes, and more rows, tiles and elements than a chunk.
    "long": [(513, 130), (2, 8300), (4100, 3), (140_000, 1), (4200, 2, 2)],
    "vectors": [(), (1,), (31,), (257,), (4095,), (4096,), (4097,), (32769,), (140_000,)],
    "empty": [(0,), (0, 5), (5, 0), (0, 3, 3), (3, 0, 4), (2,), (2, 2)],
}
OPTIONS: list[dict[str, Any]] = [
    {"l1": 0.1},
    {"weight_decay": 0.1, "maximize": True},
    {"max_grad_norm": 0.5, "max_grad_value": 0.02},
]
SOME: list[Shape] = [(9, 33), (3, 5, 2), (10, 512), (70, 300), (300,), ()]


def _name(value: Any) -> str:
    return str(value).replace("torch.", "")


def _params(shapes: list[Shape], dtype: torch.dtype, device: torch.device | str) -> tuple[list[Guarded], list[Tensor]]:
    """Parameters at every misalignment, between guards."""
    guards = [Guarded(math.prod(shape), dtype, i % 16, device) for i, shape in enumerate(shapes)]
    for i, guard in enumerate(guards):
        guard.inside.copy_(some_values(guard.inside.shape, dtype, seed=i))
    return guards, [guard.inside.view(shape).requires_grad_() for guard, shape in zip(guards, shapes, strict=True)]


def _grads(params: list[Tensor], step: int, factor: float = 1.0) -> Iterator[Tensor]:
    """Contiguous gradients, misaligned in every second step."""
    for i, param in enumerate(params):
        low = 1e-3 if param.dtype == torch.float16 else 1e-6
        values = some_values(param.shape, param.dtype, 100 * step + i, low, 1.0) * factor
        memory = torch.empty(param.numel() + 1, dtype=param.dtype, device=param.device)
        yield memory[step % 2 :][: param.numel()].view(param.shape).copy_(values)


def _train(params: list[Tensor], steps: int = 2, grad_scale: float | None = None, **kwargs: Any) -> fastopt.Adafactor:
    optimizer = fastopt.Adafactor(params, lr=0.05, **kwargs)
    for step in range(steps):
        for param, grad in zip(params, _grads(params, step, grad_scale or 1.0), strict=True):
            param.grad = grad
        if grad_scale is not None:
            optimizer.grad_scale = torch.tensor(grad_scale, device=params[0].device)
            optimizer.found_inf = torch.zeros((), device=params[0].device)
        optimizer.step()
    return optimizer


def _compare(shapes: list[Shape], dtype: torch.dtype, **kwargs: Any) -> None:
    with running("reference"):
        _, expected = _params(shapes, dtype, "cpu")
        reference = _train(expected, **kwargs)
    with gpu():
        guards, params = _params(shapes, dtype, DEVICE)
        ours = _train(params, **kwargs)
        assert_same(ours, params, reference, expected)
        for a, b in zip(params, expected, strict=True):
            assert_same_bits(a.grad.cpu(), b.grad, "gradient")
    for guard in guards:
        guard.check()


@pytest.mark.parametrize("dtype", DTYPES, ids=_name)
@pytest.mark.parametrize("shapes", SHAPES)
def test_equals_reference(shapes: str, dtype: torch.dtype) -> None:
    """All shapes of a kind are updated in one step."""
    _compare(SHAPES[shapes], dtype)


@pytest.mark.parametrize("shapes", SHAPES)
def test_order_of_blocks_and_threads(shapes: str, order: str) -> None:
    _compare(SHAPES[shapes], torch.bfloat16 if shapes == "full" else torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=_name)
@pytest.mark.parametrize("kwargs", OPTIONS, ids=_name)
def test_options(kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    _compare(SOME, dtype, **kwargs)


@pytest.mark.parametrize("dtype", HALF, ids=_name)
def test_wide_states(dtype: torch.dtype) -> None:
    _compare(SOME, dtype, state_dtype=torch.float32, weight_decay=0.1)


@pytest.mark.parametrize("kwargs", [{}, *OPTIONS], ids=_name)
@pytest.mark.parametrize("dtype", DTYPES, ids=_name)
def test_unscaling(dtype: torch.dtype, kwargs: dict[str, Any]) -> None:
    """Unscaled gradients of half types are used unrounded. They are written back rounded, once, by the last pass."""
    _compare(SOME, dtype, grad_scale=3.0, **kwargs)


def test_many_parameters() -> None:
    """More parameters than one launch takes."""
    _compare([(1, 1)] * 500 + [(1,)] * 700, torch.float32, steps=1)


@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-30, 1e30], ids=str)
@pytest.mark.parametrize("everywhere", [False, True], ids=["one", "all"])
def test_special_gradients(value: float, everywhere: bool) -> None:
    def run(device: torch.device | str) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        _, params = _params(SOME, torch.float32, device)
        optimizer = fastopt.Adafactor(params, lr=0.05)
        for step in range(2):
            for param, grad in zip(params, _grads(params, step), strict=True):
                grad.view(-1)[(slice(None) if everywhere else slice(1))] = value
                param.grad = grad
            optimizer.step()
        return optimizer, params

    with running("reference"):
        reference, expected = run("cpu")
    with gpu():
        assert_same(*run(DEVICE), reference, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=_name)
def test_an_inf_that_only_the_device_knows_stops_everything(dtype: torch.dtype) -> None:
    """Nothing is written if the device finds an inf: no parameter, state, gradient or count."""
    with gpu():
        _, params = _params(SOME, dtype, DEVICE)
        optimizer = fastopt.Adafactor([{"params": params, "capturable": True}], lr=0.05)
        for inf in (0.0, 1.0):
            for param, grad in zip(params, _grads(params, int(inf), 3.0), strict=True):
                param.grad = grad
            optimizer.grad_scale = torch.tensor(3.0, device=DEVICE)
            optimizer.found_inf = torch.tensor(inf, device=DEVICE)
            tensors = [*params, *(p.grad for p in params), *(t for p in params for t in optimizer.state[p].values())]
            before = [tensor.detach().clone() for tensor in tensors]
            optimizer.step()
    assert len(tensors) == 2 * len(params) + 4 * 3 + 2 * 2
    for tensor, old in zip(tensors, before, strict=True):
        assert_same_bits(tensor.detach().cpu(), old.cpu())


def test_counters_of_empty_parameters_count() -> None:
    with gpu():
        _, params = _params([(0,), (0, 3)], torch.float32, DEVICE)
        ours = _train(params, steps=3)
    assert [ours.state[param]["step"].item() for param in params] == [3, 3]


@pytest.mark.skipif(emulator is None, reason="the emulator counts launches")
def test_launches() -> None:
    """Many parameters need as many launches as one; empty ones need none."""

    def launches(shapes: list[Shape]) -> int:
        assert emulator is not None
        with gpu():
            optimizer = _train([torch.ones(shape, requires_grad=True) for shape in shapes], steps=2)
            emulator.clear_launches()
            optimizer.step()
            return len(emulator.launches())

    scalars, vectors, matrices = 1, 3, 6
    assert launches([(300,)]) == launches([(300,), (), (5,)]) == scalars + vectors
    assert launches([(1, 1)]) == launches([(70, 300), (3, 5, 2), (1, 1)]) == scalars + matrices
    assert launches(SOME * 10) == scalars + vectors + matrices
    assert launches([(0,), (0, 5)]) == scalars
