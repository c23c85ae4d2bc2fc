"""``fastopt.monitor`` on a device: statistics equal the NumPy reference's to the bit; training is the same with and
without them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from caution_cases import CASES as CAUTIOUS_CASES
from gpu import DEVICE, REAL, assert_same, gpu
from monitor_cases import SHAPES, Watched, some_params, step_on
from optimizer_cases import PLAIN_CASES, Case, ids
from precision_cases import FLOATS, OPTIONS, run_kinds
from support import DTYPES, assert_same_step, running

# A block has 8 chunks of 4096, or some tiles of a matrix; small matrices share a block.
MORE_SHAPES: list[Any] = [*SHAPES, 32_769, (200, 3), (9, 300), (3, 130, 5)]
CASES = [case for case in PLAIN_CASES if not (REAL and case.ours is fastopt.Muon)]  # a GPU's products have other bits
EVERY = pytest.mark.parametrize("case", CASES, ids=ids)


def _trained(
    case: Any, dtype: torch.dtype, device: torch.device | str, **options: Any
) -> tuple[torch.optim.Optimizer, list[Tensor]]:
    params = some_params(dtype, 1, device, MORE_SHAPES)
    optimizer = case.make(params, **options)
    for seed in range(2):
        step_on(optimizer, params, seed)
    return optimizer, params


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference(case: Case, dtype: torch.dtype) -> None:
    """All sizes are in one step."""
    watched = Watched(case)
    with running("reference"):
        reference = _trained(watched, dtype, "cpu")
        expected = repr(watched.monitor.latest)
    with gpu():
        ours = _trained(watched, dtype, DEVICE)
        assert repr(watched.monitor.latest) == expected
        alone = _trained(case, dtype, DEVICE)
    assert_same(*ours, *reference)
    assert_same_step(*alone, *ours)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.ours in (fastopt.AdamW, fastopt.SGD, fastopt.LAMB, fastopt.Adafactor)], ids=ids
)
def test_storage_equals_reference(case: Case, option: str) -> None:
    """Mixed types, with gradients that are scaled and a maximum norm."""
    _compare(case, {**OPTIONS[option], "max_grad_norm": 3.0}, scale=8.0)


@pytest.mark.parametrize("case", CAUTIOUS_CASES, ids=ids)
def test_caution_equals_reference(case: Case) -> None:
    _compare(case, OPTIONS["split-int8-ema"], scale=4.0)


def _compare(case: Case, options: dict[str, Any], scale: float) -> None:
    watched = Watched(case)
    with running("reference"):
        reference, expected, _ = run_kinds(watched, options, [], scale=scale)
        wanted = repr(watched.monitor.latest)
    with gpu():
        ours, params, _ = run_kinds(watched, options, [], DEVICE, scale)
        assert repr(watched.monitor.latest) == wanted
        alone, others, _ = run_kinds(case, options, [], DEVICE, scale)
    assert_same(ours, params, reference, expected)
    assert_same_step(alone, others, ours, params)


def _assert_equals_reference(run: Callable[[torch.device | str], tuple[str, Any, list[Tensor]]]) -> None:
    """Compares what a monitor has read, the optimizer and its parameters."""
    with running("reference"):
        expected, *reference = run("cpu")
    with gpu():
        found, *trained = run(DEVICE)
    assert found == expected
    assert_same(*trained, *reference)


@pytest.mark.parametrize("ours", [fastopt.AdamW, fastopt.Adafactor])
@pytest.mark.parametrize("matrix", ["small", "master"])
def test_storage_of_matrices(ours: Any, matrix: str) -> None:
    """Adafactor's tiles are kept in a special way too."""
    options = {} if matrix == "small" else {"master": "float32", "ema": 0.5}
    dtype = torch.bfloat16 if matrix == "master" else torch.float32

    def run(device: torch.device | str) -> tuple[str, torch.optim.Optimizer, list[Tensor]]:
        params = some_params(dtype, 0, device, [(65, 257), (130, 31), (8, 8), (2, 3, 5)])
        monitor = fastopt.monitor(optimizer := ours(params, lr=0.1, **options))
        for seed in range(2):
            optimizer.grad_scale, optimizer.found_inf = (torch.tensor(x, device=device) for x in (0.3, 0.0))
            step_on(optimizer, params, seed)
        return repr(monitor.latest), optimizer, params

    _assert_equals_reference(run)


def test_any_order(order: str) -> None:
    """More tensors than a table holds, and tensors of several blocks."""

    def run(device: torch.device | str) -> list[str]:
        found = []
        for ours in (fastopt.AdamW, fastopt.Adafactor):
            shapes = [*([3] * 700), *([(2, 3)] * 400), 40_001, (130, 300)]
            params = some_params(torch.float32, 0, device, shapes)
            monitor = fastopt.monitor(optimizer := ours(params, lr=0.1))
            step_on(optimizer, params, 1)
            found.append(repr(monitor.latest))
        return found

    with running("reference"):
        expected = run("cpu")
    with gpu():
        assert run(DEVICE) == expected


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("ours", [fastopt.SGD, fastopt.Adafactor])
def test_counts_what_is_not_finite(ours: Any, dtype: torch.dtype) -> None:
    where = [0, 31, 127, 128, 4095, 4096, 16384, 16639]
    with gpu():
        params = [torch.ones(shape, dtype=dtype, device=DEVICE) for shape in (16640, (65, 256), 3)]
        monitor = fastopt.monitor(optimizer := ours([param.requires_grad_() for param in params], lr=0.1))
        for param in params:
            param.grad = torch.ones_like(param)
        for param, value in ((params[0], math.inf), (params[1], math.nan)):
            param.grad.view(-1)[where] = value
        optimizer.step()
        assert [one.non_finite for one in monitor.latest] == [8, 8, 0]
        assert monitor.latest[0].grad_norm == math.inf
        assert math.isnan(monitor.latest[1].grad_norm)


def test_a_square_that_overflows_is_not_counted() -> None:
    param = torch.ones(200, dtype=torch.float64, device=DEVICE, requires_grad=True)
    with gpu():
        monitor = fastopt.monitor(optimizer := fastopt.SGD([param], lr=0.0))
        param.grad = torch.full_like(param, 1e200)
        optimizer.step()
        assert monitor.latest[0][1::4] == (math.inf, 0.0)  # the norm of the gradient, and the ratio
        assert monitor.latest[0].non_finite == 0


def test_prodigy_equals_reference() -> None:
    """Its scale is made on the device, between the passes; the second one measures."""
    options: dict[str, Any] = {"state_dtype": "int8", "ema": 0.9, "rounding": "stochastic", "rounding_seed": 5}

    def run(device: torch.device | str) -> tuple[str, Any, list[Tensor]]:
        params = some_params(torch.bfloat16, 1, device, MORE_SHAPES)
        monitor = fastopt.monitor(optimizer := fastopt.Prodigy(params, d0=1e-2, **options))
        for seed in range(2):
            step_on(optimizer, params, seed)
        return repr(monitor.latest), optimizer, params

    _assert_equals_reference(run)
