"""``fastopt.offload`` in training loops: what users change, checkpoints, GradScaler, groups, closures."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import fastopt
from fastopt._offload import host
from late_copies import LateTransfers
from offload_cases import FREE, backward, offload_params
from precision_cases import BF16
from support import assert_same_bits, assert_same_step


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_CHUNK", 300)


def _changes(param: nn.Parameter) -> Iterator[None]:
    """Ways to change a parameter between steps; not all of them count for autograd."""
    with torch.no_grad():
        param.clamp_(-0.7, 0.7)
    yield
    param.data.mul_(0.5)
    yield
    param.data = param.data + 1
    yield
    param.data = torch.full_like(param, 0.25)
    yield


@FREE
@pytest.mark.parametrize("master", [None, "float32", "split"])
def test_changes_of_parameters_are_respected(free: bool, master: str | None) -> None:
    p, q = offload_params(BF16), offload_params(BF16)
    one = fastopt.AdamW(p, lr=0.1, master=master)
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1, master=master), free_grads=free, transfers=LateTransfers)
    for step, _ in enumerate(zip(_changes(p[0]), _changes(q[0]), strict=True)):
        for params, optimizer in ((p, one), (q, other)):
            backward(params, step)
            with torch.no_grad():  # between backward and step, this one counts for autograd
                params[3].mul_(0.9)
            optimizer.step()
            optimizer.zero_grad()
    assert_same_step(one, p, other, q)


def test_changes_of_gradients_are_respected() -> None:
    """As they are by any optimizer, where gradients are not freed."""
    p, q = offload_params(), offload_params()
    one = fastopt.AdamW(p, lr=0.1)
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1), transfers=LateTransfers)
    for step in range(4):
        for params, optimizer in ((p, one), (q, other)):
            backward(params, step)
            torch.nn.utils.clip_grad_norm_(params, 0.1)
            params[1].grad = None
            if params[3].grad is not None:
                params[3].grad.data.clamp_(-1e-3, 1e-3)
            if step == 2:
                params[5].grad = torch.ones_like(params[5])
            optimizer.step()
            optimizer.zero_grad()
    assert_same_step(one, p, other, q)


@FREE
@pytest.mark.parametrize("weights_first", [False, True])
@pytest.mark.parametrize("master", [None, "float32", "split"])
def test_checkpoints(free: bool, weights_first: bool, master: str | None) -> None:
    """Of the same optimizer, offloaded or not, before and after the weights."""

    def trained(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, first: int) -> None:
        for step in range(first, first + 3):
            backward(params, step)
            optimizer.step()
            optimizer.zero_grad()

    p = offload_params(BF16)
    one = fastopt.AdamW(p, lr=0.1, master=master)
    trained(p, one, 0)
    weights, states = copy.deepcopy([param.data for param in p]), copy.deepcopy(one.state_dict())
    trained(p, one, 3)

    q = offload_params(BF16)
    other = fastopt.offload(fastopt.AdamW(q, lr=0.3, master=master), free_grads=free, transfers=LateTransfers)
    trained(q, other, 7)
    if not weights_first:
        other.load_state_dict(states)
    with torch.no_grad():
        for param, weight in zip(q, weights, strict=True):
            param.copy_(weight)
    if weights_first:
        other.load_state_dict(states)
    trained(q, other, 3)
    assert_same_step(one, p, other, q)

    again = offload_params(BF16)
    back = fastopt.AdamW(again, lr=0.3, master=master)
    back.load_state_dict(copy.deepcopy(other.state_dict()))
    for a, b in zip(again, q, strict=True):
        a.data.copy_(b.data)
    trained(again, back, 6)
    trained(q, other, 6)
    assert_same_step(back, again, other, q)


@pytest.mark.parametrize("options", [{}, {"fused": True}], ids=["", "fused"])
def test_grad_scaler(options: dict[str, Any]) -> None:
    p, q = offload_params(), offload_params()
    one = fastopt.AdamW(p, lr=0.1, **options)
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1, **options), transfers=LateTransfers)
    for step in range(4):
        for params, optimizer in ((p, one), (q, other)):
            scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
            grad = torch.inf if step == 2 else 1.0
            scaler.scale(sum((param * grad).sum() for param in params if param.requires_grad)).backward()
            if step == 1 and not options:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == (4.0 if step == 2 else 8.0)
            optimizer.zero_grad()
    assert_same_step(one, p, other, q)


@FREE
def test_groups_and_parameters_that_come_later(free: bool) -> None:
    p, q = offload_params(), offload_params()
    one, other = fastopt.AdamW(p[:3], lr=0.1), fastopt.AdamW(q[:3], lr=0.1)
    other = fastopt.offload(other, free_grads=free, transfers=LateTransfers)
    for step in range(6):
        for params, optimizer in ((p, one), (q, other)):
            if step == 2:
                optimizer.add_param_group({"params": params[3:], "lr": 0.01, "ema": 0.9})
            if step == 3:
                params[2].requires_grad_()
            if step == 4:
                optimizer.param_groups[0]["ema"] = 0.5
            backward(params, step)
            optimizer.step()
            optimizer.zero_grad()
    assert_same_step(one, p, other, q)


@FREE
def test_closures_and_hooks(free: bool) -> None:
    p, q = offload_params(), offload_params()
    one = fastopt.AdamW(p, lr=0.1)
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1), free_grads=free, transfers=LateTransfers)
    seen: list[str] = []
    other.register_step_pre_hook(lambda *_: seen.append("before"))
    other.register_step_post_hook(lambda *_: seen.append("after"))
    for step in range(3):
        for params, optimizer in ((p, one), (q, other)):

            def closure(params: Any = params, optimizer: Any = optimizer, step: int = step) -> float:
                optimizer.zero_grad()
                backward(params, step)
                return float(step)

            assert optimizer.step(closure) == step
    assert seen == ["before", "after"] * 3
    assert_same_step(one, p, other, q)


@FREE
def test_zero_grad_drops_what_has_been_moved(free: bool) -> None:
    q = offload_params()
    other = fastopt.offload(fastopt.SGD(q, lr=0.1), free_grads=free, transfers=LateTransfers)
    backward(q, 0)
    other.zero_grad()
    other.step()
    for param, first in zip(q, offload_params(), strict=True):
        assert_same_bits(param.detach(), first.detach())
