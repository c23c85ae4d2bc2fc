"""``fastopt.offload`` where a model or a loop does something unusual."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt
from fastopt._offload import host, moved
from late_copies import LateTransfers
from offload_cases import FREE, backward, offload_params
from support import assert_same_bits, assert_same_step, some_values


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_CHUNK", 300)


def _compare(make: Callable[[Any], Any], loop: Callable[[Any, list[nn.Parameter]], None], free: bool) -> None:
    p, q = offload_params(), offload_params()
    one, other = make(p), fastopt.offload(make(q), free_grads=free, transfers=LateTransfers)
    loop(one, p)
    loop(other, q)
    assert_same_step(one, p, other, q)


@FREE
def test_an_average_that_is_set_in_a_step_without_gradient(free: bool) -> None:
    def loop(optimizer: Any, params: list[nn.Parameter]) -> None:
        for step in range(6):
            if step == 2:
                optimizer.param_groups[0]["ema"] = 0.5
            with torch.no_grad():
                params[5].mul_(0.9)
            backward(params, step)
            optimizer.step()
            optimizer.zero_grad()

    _compare(lambda params: fastopt.Adagrad(params, lr=0.1), loop, free)


@FREE
def test_lookahead_with_sums_of_half_gradients(free: bool) -> None:
    p, q = (offload_params(torch.bfloat16) for _ in range(2))
    one, other = (fastopt.Lookahead(fastopt.SGD(params, lr=0.1), k=2) for params in (p, q))
    fastopt.offload(other, free_grads=free, transfers=LateTransfers)
    for step in range(4):
        for params, optimizer in ((p, one), (q, other)):
            for passes in range(2):
                params[0].backward(torch.full_like(params[0], 0.25 * (1 + passes)))  # their sum is exact
            if step % 2 == 0:
                params[1].backward(torch.full_like(params[1], 0.5))
            optimizer.step()
            optimizer.zero_grad()
    assert_same_step(one, p, other, q)


@FREE
@pytest.mark.parametrize("when", ["before backward", "after backward"])
@pytest.mark.parametrize("change", ["double", "half", "channels_last", "resize"])
def test_parameters_become_other_tensors(change: str, when: str, free: bool) -> None:
    def changed(param: nn.Parameter) -> Tensor:
        if change == "resize":
            return param.data[:2].clone()
        return (
            param.data.to(memory_format=torch.channels_last)
            if change == "channels_last"
            else getattr(param.data, change)()
        )

    def trained(params: list[nn.Parameter], optimizer: Any) -> None:
        for step in range(4):
            if step == 2 and when == "before backward":
                params[0].data = changed(params[0])
                if change == "resize":
                    optimizer.state.clear()
            params[0].backward(some_values(params[0].shape, params[0].dtype, step))
            params[1].backward(some_values(params[1].shape, params[1].dtype, step))
            if step == 2 and when == "after backward":
                grad = params[0].grad
                if grad is not None:
                    params[0].grad = None
                params[0].data = changed(params[0])
                if grad is not None:  # as torch's modules do it
                    params[0].grad = grad.to(params[0].dtype)
            optimizer.step()
            optimizer.zero_grad()

    if when == "after backward" and change == "resize":
        return  # the gradient has another shape then, and torch refuses it
    p, q = ([nn.Parameter(some_values((3, 4, 5, 6), torch.float32, i)) for i in range(2)] for _ in range(2))
    one, other = (fastopt.SGD(params, lr=0.5, rounding="stochastic", rounding_seed=3) for params in (p, q))
    fastopt.offload(other, free_grads=free, transfers=LateTransfers)
    trained(p, one)
    trained(q, other)
    for a, b in zip(p, q, strict=True):
        assert_same_bits(a.detach(), b.detach())


@FREE
def test_a_change_after_gradients_were_dropped(free: bool) -> None:
    def loop(optimizer: Any, params: list[nn.Parameter]) -> None:
        for step in range(4):
            backward(params, step)
            optimizer.zero_grad()
            params[0].data.mul_(0.5)
            backward(params, step + 1)
            optimizer.step()
            optimizer.zero_grad()

    _compare(lambda params: fastopt.AdamW(params, lr=0.1), loop, free)


def test_a_step_that_was_refused_is_repeated_with_the_gradients_of_then() -> None:
    def loop(optimizer: Any, params: list[nn.Parameter]) -> None:
        for step in range(3):
            backward(params, step)
            optimizer.param_groups[0]["weight_decay"] = "much"
            with pytest.raises(TypeError, match="weight_decay"):
                optimizer.step()
            optimizer.param_groups[0]["weight_decay"] = 0.1
            if params[0].grad is not None:
                params[0].grad.data.mul_(0.1)
            optimizer.step()
            optimizer.zero_grad()

    _compare(lambda params: fastopt.AdamW(params, lr=0.1), loop, False)


def test_kept_lists_and_states_stay_the_optimizers() -> None:
    q = offload_params()
    other = fastopt.offload(fastopt.AdamW(q[:3], lr=0.1))
    params, state = other.param_groups[0]["params"], other.state
    backward(q, 0)
    other.step()
    assert other.param_groups[0]["params"] is params
    assert other.state is state
    assert set(state) == {param for param in q[:3] if param.grad is not None}


@FREE
def test_gradients_with_a_conjugate_bit(free: bool) -> None:
    values = torch.complex(some_values((37,), torch.float32, 1), some_values((37,), torch.float32, 2))
    weight = torch.complex(some_values((37,), torch.float32, 3), some_values((37,), torch.float32, 4))
    p, q = [nn.Parameter(values.clone())], [nn.Parameter(values.clone())]

    class Transfers(LateTransfers):
        def _copy(self, source: Tensor, target: Tensor) -> None:
            assert source.is_conj() == target.is_conj() or target.data_ptr() not in places
            super()._copy(source, target)

    one, other = fastopt.Adam(p), fastopt.offload(fastopt.Adam(q), free_grads=free, transfers=Transfers)
    places = {twin._grad.target.data_ptr() for twin in other._host.twins.all()}
    for _ in range(3):
        for params, optimizer in ((p, one), (q, other)):
            (params[0].conj() * weight).real.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same_step(one, p, other, q)


def test_frozen_parameters_take_no_memory_of_the_host() -> None:
    frozen, trained = nn.Parameter(torch.zeros(1000), requires_grad=False), nn.Parameter(torch.ones(10))
    other = fastopt.offload(fastopt.AdamW([frozen, trained], max_grad_norm=1.0))
    trained.sum().backward()
    other.step()
    assert other.host_memory() == {"parameters": 40, "gradients": 40, "states": 84}


def test_a_parameter_that_has_left_the_groups() -> None:
    q = offload_params()
    other = fastopt.offload(fastopt.SGD(q, lr=0.1), free_grads=True)
    backward(q, 0)
    gone = other.param_groups[0]["params"].pop(0)
    other.step()
    gone.sum().backward()
    assert gone.grad is not None
    known = weakref.ref(gone)
    del gone, q[0]
    assert known() is None


@FREE
@pytest.mark.parametrize("what", ["parameter", "gradient"])
def test_freed_memory_is_an_error(what: str, free: bool) -> None:
    q = offload_params()
    other = fastopt.offload(fastopt.SGD(q, lr=0.1), free_grads=free)
    backward(q, 1)
    q[4].grad = q[1].grad = None
    q[1].grad = torch.ones_like(q[1])
    if what == "gradient":
        q[1].grad.untyped_storage().resize_(0)
    else:
        q[1].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0 \(shape \(33,\)\) has no memory"):
        other.step()
    assert_same_bits(q[0].detach(), offload_params()[0].detach())


def test_few_gradients_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that never end by themselves are waited for when they keep too much of the device's memory."""
    monkeypatch.setattr(moved, "_UNDER_WAY", 1000)
    params = [nn.Parameter(torch.ones(100)) for _ in range(20)]
    most: list[int] = []
    other = fastopt.offload(fastopt.SGD(params, lr=1.0), free_grads=True, transfers=LateTransfers)
    for param in params:
        param.register_post_accumulate_grad_hook(
            lambda _: most.append(sum(twin.arriving_bytes for twin in other._host.twins.all()))
        )
    torch.stack([param.sum() for param in params]).sum().backward()
    assert max(most) <= 1000
    other.step()
    for param in params:
        assert_same_bits(param.detach(), torch.zeros(100))


def test_gradients_of_another_type_are_freed_too() -> None:
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("this torch has no gradients of another type than their parameter's")
    param = nn.Parameter(torch.ones(70, dtype=torch.bfloat16))
    param.grad_dtype = torch.float32
    other = fastopt.offload(fastopt.SGD([param], lr=1.0), free_grads=True, transfers=LateTransfers)
    for _ in range(2):
        param.backward(torch.full((70,), 0.25, dtype=torch.bfloat16))
        assert param.grad is None
    other.step()
    assert_same_bits(param.detach(), torch.full((70,), 0.5, dtype=torch.bfloat16))


def test_errors() -> None:
    class Own(fastopt.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    params = [nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))]
    base = torch.ones(8)
    shared = [nn.Parameter(base), nn.Parameter(base[2:])]
    for optimizer, options, error, text in (
        (Own(params, lr=0.1), {}, TypeError, "Own has a step of its own"),
        (fastopt.SGD(params, lr=0.1), {"free_grads": "no"}, TypeError, "free_grads must be a bool"),
        (fastopt.SGD(params, lr=0.1), {"transfers": 5}, TypeError, "transfers must be a function"),
        (fastopt.SGD(shared, lr=0.1), {}, RuntimeError, "parameter 0 of group 0 .* shares memory with parameter 1"),
        (fastopt.SGD([nn.Parameter(torch.ones(1).expand(4))]), {}, RuntimeError, "is an expanded or overlapping"),
        (fastopt.SGD([nn.UninitializedParameter()]), {}, ValueError, "has no shape yet"),
    ):
        with pytest.raises(error, match=text):
            fastopt.offload(optimizer, **options)  # type: ignore[arg-type]

    def failing(device: torch.device) -> Any:
        raise RuntimeError("no memory is left")

    optimizer = fastopt.AdamW(params, fused=True)
    with pytest.raises(RuntimeError, match="no memory is left"):
        fastopt.offload(optimizer, transfers=failing)
    fastopt.offload(optimizer, free_grads=True)  # nothing of the failure has stayed
    with pytest.raises(RuntimeError, match="another offloaded optimizer moves"):
        fastopt.offload(fastopt.SGD(params), free_grads=True)
    with pytest.raises(ValueError, match="capturable=True keeps"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "capturable": True})
    assert len(optimizer.param_groups) == 1
    handle = fastopt.step_in_backward(nn.ParameterList(params), fastopt.SGD(params, lr=0.1))
    with pytest.raises(RuntimeError, match="another hook, such as offload's, has taken the gradient"):
        params[0].sum().backward()
    handle.remove()
    scaler = torch.amp.GradScaler("cpu")
    optimizer.grad_scale, optimizer.found_inf = scaler._scale, None
    with pytest.raises(RuntimeError, match="GradScaler looks for an inf"):
        optimizer.step()
