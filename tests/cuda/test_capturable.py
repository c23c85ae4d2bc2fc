"""``capturable=True``: counters, bias corrections, GradScaler's verdict and the clipping norm stay on the device."""

import copy
import inspect
from typing import Any

import pytest
import torch

import fastopt
from fastopt import _runtime
from gpu import DEVICE, REAL, assert_same, gpu
from optimizer_cases import PLAIN_CASES, Case, ids
from precision_cases import OPTIONS
from support import assert_same_bits, some_values, states_of

CAPTURABLE = [case for case in PLAIN_CASES if "capturable" in inspect.signature(case.ours).parameters]
CASES = pytest.mark.parametrize("case", CAPTURABLE, ids=ids)
SHAPES = [(), (3, 5), (0,), (1030,)]
ON_A_GPU = pytest.mark.skipif(not REAL, reason="graphs need a GPU")


def _params() -> list[torch.Tensor]:
    return [some_values(s, torch.float32, seed=i).to(DEVICE).requires_grad_() for i, s in enumerate(SHAPES)]


def _set_grads(params: list[torch.Tensor], step: int, scale: float = 1.0) -> None:
    for i, param in enumerate(params):
        param.grad = scale * some_values(param.shape, param.dtype, 100 * step + i).to(DEVICE)


def _train(case: Case, steps: int, **options: Any) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    params = _params()
    optimizer = case.make(params, **options)
    for step in range(steps):
        _set_grads(params, step)
        optimizer.step()
    return optimizer, params


def _assert_alike(ours: Any, params: Any, theirs: Any, expected: Any) -> None:
    """Compares to the bit, if the device's pow is the host's."""
    if not REAL:
        return assert_same(ours, params, theirs, expected)
    for param, other in zip(params, expected, strict=True):
        torch.testing.assert_close(param, other, rtol=2e-6, atol=1e-7)
    return None


@CASES
@pytest.mark.parametrize("more", [{}, {"max_grad_norm": 0.5}, {"maximize": True}], ids=str)
def test_equals_counting_on_the_cpu(case: Case, more: dict[str, Any]) -> None:
    """Enough steps to pass RAdam's first ones, which are not rectified."""
    with gpu():
        ours, params = _train(case, 12, capturable=True, **more)
        theirs, expected = _train(case, 12, **more)
    _assert_alike(ours, params, theirs, expected)
    for param in params:
        step = ours.state[param]["step"]
        assert step.device == param.device
        assert step.item() == 12
        assert step.dtype == torch.float32


@CASES
@pytest.mark.parametrize("option", ["ema", "ema-warmup", "random-int8-ema", "narrow"])
def test_storage_equals_counting_on_the_cpu(case: Case, option: str) -> None:
    """Random numbers and the warm-up of an average depend on the count."""
    with gpu():
        ours, params = _train(case, 5, capturable=True, **OPTIONS[option])
        theirs, expected = _train(case, 5, **OPTIONS[option])
    _assert_alike(ours, params, theirs, expected)


@CASES
def test_a_learning_rate_on_the_device(case: Case) -> None:
    """The learning rate may be a device tensor that changes between steps."""
    with gpu():
        params, others = _params(), _params()
        rate = torch.tensor(0.1, device=DEVICE)
        ours = case.ours(params, **{**case.kwargs, **case.extra, "lr": rate}, capturable=True)
        theirs = case.ours(others, **{**case.kwargs, **case.extra, "lr": 0.1}, capturable=True)
        for step in range(4):
            rate.fill_(0.1 / (step + 1))
            theirs.param_groups[0]["lr"] = rate.item()
            for some in (params, others):
                _set_grads(some, step)
            ours.step()
            theirs.step()
    assert_same(ours, params, theirs, others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64], ids=str)
def test_types_of_a_learning_rate_on_the_device(dtype: torch.dtype) -> None:
    """None of them is read as the bytes of another."""
    rate = 2.0 if dtype == torch.int64 else 0.125
    with gpu():
        params, others = _params(), _params()
        ours = fastopt.Adam(params, lr=torch.tensor(rate, dtype=dtype, device=DEVICE), capturable=True)
        theirs = fastopt.Adam(others, lr=rate, capturable=True)
        for step in range(2):
            for some in (params, others):
                _set_grads(some, step)
            ours.step()
            theirs.step()
    assert_same(ours, params, theirs, others)


@CASES
def test_grad_scaler(case: Case) -> None:
    """The device divides by the scale. If an inf was found, it updates and counts nothing."""
    with gpu():
        params, others = _params(), _params()
        ours, theirs = case.make(params, capturable=True), case.make(others, capturable=True)
        for step in range(6):
            bad = step in (0, 3)
            _set_grads(params, step, scale=4.0)
            before = [p.detach().clone() for p in params], states_of(ours)
            ours.grad_scale = torch.tensor(4.0, device=DEVICE)
            ours.found_inf = torch.tensor(float(bad), device=DEVICE)
            ours.step()
            del ours.grad_scale, ours.found_inf
            if not bad:
                _set_grads(others, step)
                theirs.step()
                continue
            for param, old in zip(params, before[0], strict=True):
                assert_same_bits(param.cpu(), old.cpu())
            if step > 0:
                torch.testing.assert_close(states_of(ours), before[1], rtol=0, atol=0)
            assert all(state["step"].item() == max(step - 1, 0) for state in ours.state.values())
        assert_same(ours, params, theirs, others)
        for param, other in zip(params, others, strict=True):
            assert_same_bits(param.grad.cpu(), other.grad.cpu(), "the unscaled gradient")


def test_a_real_grad_scaler_with_clipping() -> None:
    with gpu():
        params, others = _params(), _params()
        options: dict[str, Any] = dict(lr=0.01, max_grad_norm=0.3, capturable=True)
        ours, theirs = fastopt.AdamW(params, **options), fastopt.AdamW(others, **options)
        scaler = torch.amp.GradScaler(DEVICE.type, init_scale=8.0)
        for step in range(3):
            scaler.scale(torch.ones((), device=DEVICE))
            _set_grads(params, step, scale=8.0)
            _set_grads(others, step)
            scaler.step(ours)
            scaler.update()
            theirs.step()
            assert_same_bits(ours.grad_norm.cpu(), theirs.grad_norm.cpu())
        assert_same(ours, params, theirs, others)


@pytest.mark.parametrize("case", [case for case in CAPTURABLE if case.from_torch], ids=ids)
def test_states_of_torchs_optimizer(case: Case) -> None:
    """torch's checkpoint, without capturable, has its count on the CPU. Ours moves it to the device and continues."""
    with gpu():
        params, others = _params(), _params()
        theirs = case.make_theirs(others)
        _set_grads(others, 0)
        theirs.step()
        saved = copy.deepcopy(theirs.state_dict())
        for param, other in zip(params, others, strict=True):
            param.data.copy_(other.data)
        ours = case.make(params, capturable=True)
        ours.load_state_dict(saved)
        for group in ours.param_groups:
            group["capturable"] = True
        _set_grads(params, 1)
        ours.step()
    for param in params:
        assert ours.state[param]["step"].item() == 2
        assert ours.state[param]["step"].device == param.device


def test_counters_go_back_to_the_cpu() -> None:
    with gpu():
        optimizer, params = _train(CAPTURABLE[0], 3, capturable=True)
        optimizer.param_groups[0]["capturable"] = False
        _set_grads(params, 3)
        optimizer.step()
    step = optimizer.state[params[1]]["step"]
    assert step.is_cpu
    assert step.item() == 4


def test_a_capture_needs_states_and_counts_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runtime, "capturing", lambda: True)
    with gpu():
        params = _params()
        _set_grads(params, 0)
        fresh = fastopt.Adam(params, capturable=True)
        with pytest.raises(RuntimeError, match="has no state yet; a CUDA graph would make it anew: take a step before"):
            fresh.step()
        assert not fresh.state
        with pytest.raises(
            RuntimeError, match=r"fastopt\.Adam: a CUDA graph would repeat this step with the same step"
        ):
            fastopt.Adam(params).step()
        with pytest.raises(RuntimeError, match="Lookahead counts its steps on the CPU"):
            fastopt.Lookahead(fastopt.SGD(params, lr=0.1)).step()
        fastopt.SGD(params, lr=0.1).step()  # SGD counts nothing


@ON_A_GPU
@CASES
def test_a_graph_of_a_step_repeats_it(case: Case) -> None:
    """100 replays equal 100 steps, to the bit, with clipping and a changing learning rate."""
    params, others = _params(), _params()
    rates = [torch.tensor(0.1, device=DEVICE) for _ in range(2)]
    options: dict[str, Any] = dict(capturable=True, max_grad_norm=1.0)
    ours = case.ours(params, **{**case.kwargs, **case.extra, "lr": rates[0]}, **options)
    theirs = case.ours(others, **{**case.kwargs, **case.extra, "lr": rates[1]}, **options)
    for some in (params, others):
        _set_grads(some, 0)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        ours.step()
    torch.cuda.current_stream().wait_stream(side)
    theirs.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for step in range(1, 101):
        for i, (param, other) in enumerate(zip(params, others, strict=True)):
            grad = some_values(param.shape, param.dtype, 100 * step + i).to(DEVICE)
            param.grad.copy_(grad)
            other.grad.copy_(grad)
        for rate in rates:
            rate.fill_(0.1 / step)
        graph.replay()
        theirs.step()
    assert_same(ours, params, theirs, others)


@ON_A_GPU
@CASES
def test_the_host_does_not_wait(case: Case) -> None:
    """A step with GradScaler's tensors and clipping does not make the host wait."""
    optimizer, params = _train(case, 1, capturable=True, max_grad_norm=1.0)
    _set_grads(params, 1)
    optimizer.grad_scale, optimizer.found_inf = (torch.tensor(float(x), device=DEVICE) for x in (2, 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
