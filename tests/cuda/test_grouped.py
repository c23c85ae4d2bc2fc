"""Prodigy on a device equals the NumPy reference to the bit. What it counts and estimates stays on the device."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from gpu import DEVICE, REAL, assert_same, gpu
from support import DTYPES, Guarded, assert_same_bits, running, some_values

SIZES = [0, 1, 31, 33, 255, 257, 4095, 4096, 4097, 8193, 32769, 140_000]
NUMBERS = ("d", "d_max", "d_numerator", "k")
# No bias correction, because the pow of a GPU has other bits.
EXACT: dict[str, Any] = {"d0": 1e-2}


def _params(dtype: torch.dtype, device: torch.device | str) -> tuple[list[Guarded], list[Tensor]]:
    """Parameters at every misalignment, between guards."""
    guards = [Guarded(n, dtype, i % 16, device) for i, n in enumerate(SIZES)]
    for i, guard in enumerate(guards):
        guard.inside.copy_(some_values(guard.inside.shape, dtype, seed=i))
    return guards, [guard.inside.requires_grad_() for guard in guards]


def _train(params: list[Tensor], steps: int = 3, grad_scale: float = 1.0, **options: Any) -> Any:
    groups = [{"params": params[:5], "lr": 0.5}, {"params": params[5:]}]
    return _go_on(fastopt.Prodigy(groups, **{**EXACT, **options}), params, range(steps), grad_scale)


def _go_on(optimizer: Any, params: list[Tensor], steps: range, grad_scale: float = 1.0) -> Any:
    for step in steps:
        for i, param in enumerate(params):
            param.grad = (grad_scale * (2 + step) * some_values(param.shape, param.dtype, i)).to(param.device)
        if grad_scale != 1:
            optimizer.grad_scale = torch.tensor(grad_scale, device=params[0].device)
            optimizer.found_inf = torch.zeros((), device=params[0].device)
        optimizer.step()
    return optimizer


def _numbers(optimizer: Any) -> list[list[float]]:
    return [[float(group[key]) for key in NUMBERS] for group in optimizer.param_groups]


@pytest.mark.parametrize("grad_scale", [1.0, 3.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"state_dtype": torch.float32},
        {"max_grad_value": 1.5, "l1": 1e-3, "weight_decay": 0.1},
        {"max_grad_norm": 0.5, "decouple": False, "weight_decay": 0.1, "growth_rate": 1.5},
        {"safeguard_warmup": True, "beta3": 0.9, "d_coef": 0.5, "maximize": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference(dtype: torch.dtype, options: dict[str, Any], grad_scale: float) -> None:
    with running("reference"):
        _, expected = _params(dtype, "cpu")
        reference = _train(expected, grad_scale=grad_scale, **options)
    with gpu():
        guards, params = _params(dtype, DEVICE)
        ours = _train(params, grad_scale=grad_scale, **options)
        assert_same(ours, params, reference, expected)
        for a, b in zip(params, expected, strict=True):
            assert_same_bits(a.grad.cpu(), b.grad, "gradient")
    for guard in guards:
        guard.check()
    assert _numbers(ours) == _numbers(reference)
    assert options.get("maximize") or _numbers(ours)[0][0] > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"state_dtype": "int8", "ema": 0.9, "rounding": "stochastic", "rounding_seed": 5},
        {"state_dtype": torch.bfloat16, "rounding_seed": 5},
        {"master": "split"},
    ],
    ids=str,
)
def test_storage_equals_reference(dtype: torch.dtype, options: dict[str, Any]) -> None:
    if options.get("master") and dtype == torch.float32:
        return
    with running("reference"):
        _, expected = _params(dtype, "cpu")
        reference = _train(expected, **options)
    with gpu():
        _, params = _params(dtype, DEVICE)
        ours = _train(params, **options)
    assert_same(ours, params, reference, expected)
    assert _numbers(ours) == _numbers(reference)


def test_more_tensors_than_a_launch_takes() -> None:
    """Their sums are joined in one order, over all launches."""

    def train(device: torch.device | str) -> tuple[Any, list[Tensor]]:
        params = [some_values(1 + n % 3, torch.float32, n).to(device).requires_grad_() for n in range(1300)]
        return _train(params, steps=2), params

    with running("reference"):
        reference, expected = train("cpu")
    with gpu():
        ours, params = train(DEVICE)
    assert_same(ours, params, reference, expected)
    assert _numbers(ours) == _numbers(reference)


def test_the_numbers_are_tensors_on_the_device() -> None:
    """The step writes to them; the groups have the same ones before and after."""
    with gpu():
        _, params = _params(torch.float32, DEVICE)
        optimizer = _train(params, steps=1)
        first = [group[key] for group in optimizer.param_groups for key in NUMBERS]
        assert all(isinstance(x, Tensor) and x.device == params[0].device and x.dim() == 0 for x in first)
        assert all(x.dtype == torch.float64 for x in first)
        rate = optimizer.param_groups[0]["d"] * optimizer.param_groups[0]["lr"]
        assert rate.item() == 0.5 * 1e-2
        _go_on(optimizer, params, range(1, 3))
        assert all(x is group[key] for x, (group, key) in zip(first, _places(optimizer), strict=True))
        assert optimizer.param_groups[1]["k"].item() == 3
        assert optimizer.state[params[1]]["step"].device == params[1].device


def _places(optimizer: Any) -> list[tuple[dict[str, Any], str]]:
    return [(group, key) for group in optimizer.param_groups for key in NUMBERS]


def test_a_skipped_step_leaves_the_numbers() -> None:
    """The device decides, by GradScaler's found_inf, and the CPU does not ask."""
    with gpu():
        _, params = _params(torch.float32, DEVICE)
        optimizer = _train(params)
        before, state = _numbers(optimizer), copy.deepcopy(optimizer.state_dict()["state"])
        kept = [p.detach().clone() for p in params]
        optimizer.grad_scale = torch.ones((), device=DEVICE)
        optimizer.found_inf = torch.ones((), device=DEVICE)
        params[-1].grad[0] = math.inf
        optimizer.step()
        assert _numbers(optimizer) == before
        for i, (param, old) in enumerate(zip(params, kept, strict=True)):
            assert_same_bits(param, old)
            for key, value in optimizer.state[param].items():
                assert_same_bits(value, state[i][key], key)


def test_a_step_without_gradients_leaves_the_numbers() -> None:
    with gpu():
        params = [torch.ones(5, device=DEVICE, requires_grad=True)]
        optimizer = fastopt.Prodigy(params, weight_decay=0.1)
        optimizer.step()
        params[0].grad = torch.zeros_like(params[0])
        optimizer.step()
        assert (params[0] == 1).all()
        assert _numbers(optimizer) == [[1e-6, 1e-6, 0.0, 0.0]]


@pytest.mark.parametrize("way", ["there", "back", "around"])
def test_checkpoints_go_to_the_device_and_back(way: str) -> None:
    def moved(optimizer: Any, params: list[Tensor], device: Any) -> tuple[Any, list[Tensor]]:
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        others = [p.detach().to(device, copy=True).requires_grad_() for p in params]
        resumed = fastopt.Prodigy([{"params": others[:5]}, {"params": others[5:]}])
        resumed.load_state_dict(torch.load(file, weights_only=True, map_location=device))
        return resumed, others

    with running("reference"):
        _, expected = _params(torch.float32, "cpu")
        reference = _train(expected, steps=5)
    _, params = _params(torch.float32, DEVICE if way != "there" else "cpu")
    if way == "there":
        optimizer, params = moved(_train(params), params, DEVICE)
    else:
        with gpu():
            optimizer, params = moved(_train(params), params, "cpu" if way == "back" else DEVICE)
    if way == "back":
        _go_on(optimizer, params, range(3, 5))
        assert type(optimizer.param_groups[0]["d"]) is float
        assert type(optimizer.param_groups[0]["k"]) is int
    else:
        with gpu():
            _go_on(optimizer, params, range(3, 5))
    assert_same(optimizer, params, reference, expected)
    assert _numbers(optimizer) == _numbers(reference)


def test_a_learning_rate_on_the_device() -> None:
    """Also one that has become 0: then the group stands still."""

    def train(device: torch.device | str, tensor: bool) -> tuple[Any, list[Tensor]]:
        params = [some_values(70, torch.float32, i).to(device).requires_grad_() for i in range(2)]
        rates = [torch.tensor(r, device=device, dtype=torch.float64) if tensor else r for r in (0.5, 0.25)]
        optimizer = fastopt.Prodigy([{"params": [p], "lr": r} for p, r in zip(params, rates, strict=True)], **EXACT)
        _go_on(optimizer, params, range(2))
        if tensor:
            rates[1].zero_()
        else:
            optimizer.param_groups[1]["lr"] = 0.0
        return _go_on(optimizer, params, range(2, 4)), params

    with running("reference"):
        reference, expected = train("cpu", tensor=False)
    with gpu():
        ours, params = train(DEVICE, tensor=True)
    assert_same(ours, params, reference, expected)
    assert _numbers(ours) == _numbers(reference)


def test_a_deep_copy_has_numbers_of_its_own() -> None:
    with gpu():
        _, params = _params(torch.float32, DEVICE)
        optimizer = _train(params)
        before = _numbers(optimizer)
        other = copy.deepcopy(optimizer)
        copies = [p for group in other.param_groups for p in group["params"]]
        _go_on(other, copies, range(3, 5))
        assert _numbers(optimizer) == before != _numbers(other)


@pytest.mark.skipif(not REAL, reason="needs a GPU")
def test_parameters_on_both_are_refused() -> None:
    for devices in (("cpu", DEVICE), (DEVICE, "cpu")):
        params = [torch.ones(3, device=device, requires_grad=True) for device in devices]
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer = fastopt.Prodigy(params)
        with pytest.raises(RuntimeError, match=r"on several devices|is for CUDA devices"):
            optimizer.step()
        assert all((param == 1).all() for param in params)
        assert not optimizer.state


@pytest.mark.skipif(not REAL, reason="graphs need a GPU")
def test_a_graph_repeats_the_step() -> None:
    def train(captured: bool) -> tuple[list[list[float]], list[Tensor]]:
        params = [some_values(5000, torch.float32, i).to(DEVICE).requires_grad_() for i in range(3)]
        optimizer = fastopt.Prodigy(params, capturable=True, **EXACT)
        for i, param in enumerate(params):
            param.grad = some_values(param.shape, param.dtype, i).to(DEVICE)
        optimizer.step()
        torch.cuda.synchronize()
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
            for _ in range(5):
                graph.replay()
        else:
            for _ in range(5):
                optimizer.step()
        torch.cuda.synchronize()
        return _numbers(optimizer), params

    (one, params), (other, expected) = train(captured=True), train(captured=False)
    assert one == other
    for a, b in zip(params, expected, strict=True):
        assert_same_bits(a, b)
