"""``fastopt.offload`` and everything else: memory, copies of the optimizer, evaluation, errors."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt
from fastopt._offload import host
from fastopt._offload.memory import places_like
from late_copies import LateTransfers
from offload_cases import FREE, half_backward, half_params
from support import assert_same_bits, assert_same_step


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_CHUNK", 300)


def test_a_wrong_gradient_is_an_error_and_nothing_is_written() -> None:
    q = half_params()
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1, fused=True), transfers=LateTransfers)
    other.param_groups[0]["weight_decay"] = "much"
    half_backward(q, 0)
    with pytest.raises(TypeError, match="weight_decay"):
        other.step()
    for param, first in zip(q, half_params(), strict=True):
        assert_same_bits(param.detach(), first.detach())
    assert not other.state
    assert other.param_groups[0]["params"][0] is q[0]


def test_freed_gradients_do_not_exist_at_one_time() -> None:
    layers = [nn.Linear(64, 64) for _ in range(8)]
    model = nn.Sequential(*layers)
    optimizer = fastopt.offload(fastopt.AdamW(model.parameters()), free_grads=True)
    alive = []
    for layer in layers:
        layer.weight.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(p.grad is not None for p in model.parameters()))
        )
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(2, 64)).sum().backward()
    assert len(alive) == 8
    assert max(alive) <= 1
    optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@FREE
def test_parameters_do_not_keep_the_memory_of_the_host(free: bool) -> None:
    q = half_params()
    other = fastopt.offload(fastopt.AdamW(q), free_grads=free)
    half_backward(q, 0)
    other.step()
    known = weakref.ref(other._host)
    gc.disable()
    del other
    gc.enable()
    assert known() is None
    half_backward(q, 1)
    assert all(p.grad is not None for p in q)


def test_places() -> None:
    tensors = [torch.empty(n, dtype=dtype) for n in (0, 1, 33) for dtype in (torch.float64, torch.bfloat16)]
    tensors += [torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.empty(6, 4)[:, 1:3]]
    taken: list[Tensor] = []

    def take(nbytes: int) -> Tensor:
        taken.append(torch.empty(nbytes, dtype=torch.uint8))
        return taken[-1]

    places = places_like(tensors, take)
    assert len(taken) == 1
    spans = []
    for place, tensor in zip(places, tensors, strict=True):
        assert (place.shape, place.dtype) == (tensor.shape, tensor.dtype)
        assert place.stride() == torch.empty_like(tensor).stride()
        assert (place.data_ptr() - taken[0].data_ptr()) % 64 == 0 or tensor.numel() == 0
        spans.append((place.data_ptr(), place.data_ptr() + place.numel() * place.element_size()))
    spans = sorted(span for span in spans if span[0] < span[1])
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_states_that_somebody_has_moved_come_back() -> None:
    """Trainers move the states of a checkpoint to the parameters' device."""
    q = half_params()
    other = fastopt.offload(fastopt.AdamW(q))
    half_backward(q, 0)
    other.step()
    state = other.state[q[0]]
    state["exp_avg"] = state["exp_avg"].to("meta")  # the only other device here
    with pytest.raises(NotImplementedError, match="meta"):
        other.step()


@FREE
def test_copies_and_pickles_are_not_offloaded(free: bool) -> None:
    q = half_params()
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1), free_grads=free)
    half_backward(q, 0)
    other.step()
    other.zero_grad()
    for made in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert type(made) is fastopt.AdamW
        params = made.param_groups[0]["params"]
        half_backward(params, 1)
        made.step()
    half_backward(q, 1)
    other.step()
    assert_same_step(made, params, other, q)


def test_averages_and_monitor() -> None:
    p, q = half_params(), half_params()
    one, other = (fastopt.AdamW(params, lr=0.1, ema=0.9) for params in (p, q))
    fastopt.offload(other, transfers=LateTransfers)
    monitors = [fastopt.monitor(optimizer) for optimizer in (one, other)]
    for step in range(4):
        for params, optimizer in ((p, one), (q, other)):
            half_backward(params, step)
            optimizer.step()
            optimizer.zero_grad()
            with optimizer.averaged():
                means = [param.detach().clone() for param in params]
            params[0].averages = means  # type: ignore[attr-defined]
        for a, b in zip(p[0].averages, q[0].averages, strict=True):  # type: ignore[attr-defined]
            assert_same_bits(a, b)
        assert monitors[0].latest == monitors[1].latest
    assert_same_step(one, p, other, q)


@pytest.mark.parametrize("master", [None, "float32", "split"])
def test_evaluation_of_schedule_free(master: str | None) -> None:
    p, q = half_params(), half_params()
    one, other = (fastopt.ScheduleFreeAdamW(params, lr=0.1, master=master) for params in (p, q))
    fastopt.offload(other, transfers=LateTransfers)
    for step in range(4):
        for params, optimizer in ((p, one), (q, other)):
            half_backward(params, step)
            optimizer.step()
            optimizer.zero_grad()
            optimizer.eval()
        for a, b in zip(p, q, strict=True):
            assert_same_bits(a.detach(), b.detach())
        one.train()
        other.train()
    assert_same_step(one, p, other, q)


def test_threads_are_the_callers_again() -> None:
    q = half_params()
    other = fastopt.offload(fastopt.AdamW(q), threads=2)
    seen: list[int] = []
    other.param_groups[0]["lr"] = 0.1
    other._advance = lambda: seen.append(torch.get_num_threads())  # type: ignore[method-assign]
    half_backward(q, 0)
    other.step()
    assert seen == [2]
    assert torch.get_num_threads() == 1
    assert fastopt.info()["in_use"]["offload_threads"] >= 1


def test_errors() -> None:
    params = half_params()
    optimizer: Any = fastopt.AdamW(params)
    for wrong, error, text in (
        (dict(clip="norm"), ValueError, "Invalid clip: 'norm'"),
        (dict(threads=0), ValueError, "Invalid threads value: 0"),
        (dict(threads=True), TypeError, "threads must be an integer"),
    ):
        with pytest.raises(error, match=text):
            fastopt.offload(optimizer, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="for fastopt's optimizers, not a SGD"):
        fastopt.offload(torch.optim.SGD(params, lr=1.0))
    with pytest.raises(TypeError, match="for fastopt's optimizers, not a SGD"):
        fastopt.offload(fastopt.Lookahead(torch.optim.SGD(params, lr=1.0)))
    with pytest.raises(ValueError, match="a step of Prodigy needs all gradients"):
        fastopt.offload(fastopt.Prodigy(params), clip="previous")
    with pytest.raises(ValueError, match="capturable=True keeps"):
        fastopt.offload(fastopt.AdamW(params, capturable=True))
    scheduled = fastopt.AdamW(params)
    torch.optim.lr_scheduler.ConstantLR(scheduled)
    with pytest.raises(RuntimeError, match="make it afterwards"):
        fastopt.offload(scheduled)
    model = nn.ParameterList(params)
    handle = fastopt.step_in_backward(model, optimizer)
    with pytest.raises(RuntimeError, match=r"remove\(\) the handle"):
        fastopt.offload(optimizer)
    handle.remove()
    fastopt.offload(optimizer)
    with pytest.raises(RuntimeError, match="offloaded already"):
        fastopt.offload(optimizer)
    with pytest.raises(RuntimeError, match="the optimizer is offloaded"):
        fastopt.step_in_backward(model, optimizer)
    with pytest.raises(TypeError, match="does not take states that are on the host"):
        optimizer.to_torch()
    with pytest.raises(TypeError, match=r"which is offloaded: switch before offload\(\)"):
        fastopt.switch(optimizer, fastopt.SGD, lr=0.1)
