"""``fastopt.offload``: the bits of the same optimizer without it, with copies that come late and out of order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastopt
from fastopt._offload import host
from late_copies import LateTransfers
from offload_cases import FREE, backward, offload_params
from optimizer_cases import ALL_CASES, Case, ids
from precision_cases import BF16, OPTIONS
from support import assert_same_bits, assert_same_step, some_values

Make = Callable[[Any], torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_CHUNK", 300)


def _groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": params[:3]}, {"params": params[3:], "lr": 0.01}]


def _both(
    make: Make, dtype: torch.dtype = torch.float32, *, free: bool = False, steps: int = 6, **options: Any
) -> tuple[torch.optim.Optimizer, list[nn.Parameter], torch.optim.Optimizer, list[nn.Parameter]]:
    """Trains without and with offload, in two groups, with a scheduler."""
    p, q = offload_params(dtype), offload_params(dtype)
    one = make(_groups(p))
    other = fastopt.offload(make(_groups(q)), free_grads=free, transfers=LateTransfers, **options)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in (one, other)]
    for step in range(steps):
        for params, optimizer in ((p, one), (q, other)):
            backward(params, step)
            if free and optimizer is other:
                assert all(param.grad is None for param in params)
            optimizer.step()
            optimizer.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
    return one, p, other, q


@FREE
@pytest.mark.parametrize("case", ALL_CASES, ids=ids)
@pytest.mark.filterwarnings("error")
def test_is_the_same_optimizer(case: Case, free: bool) -> None:
    one, p, other, q = _both(case.make, free=free)
    assert_same_step(one, p, other, q)
    for param, first in zip(q, offload_params(), strict=True):
        assert torch.equal(param, first) == (not param.requires_grad or param.numel() == 0)
    assert other.state_dict()["param_groups"] == one.state_dict()["param_groups"]
    assert isinstance(other, case.ours)


@FREE
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_storage_options(options: dict[str, Any], free: bool) -> None:
    def make(params: Any) -> torch.optim.Optimizer:
        return fastopt.AdamW(params, lr=0.05, cautious=True, **options)

    one, p, other, q = _both(make, BF16, free=free)
    assert_same_step(one, p, other, q)


@FREE
def test_muon(free: bool) -> None:
    def make(groups: Any) -> torch.optim.Optimizer:
        params = [p for group in groups for p in group["params"]]
        matrices, others = ([p for p in params if (p.ndim == 2) == wanted] for wanted in (True, False))
        return fastopt.Muon([{"params": matrices}, {"params": others, "use_muon": False}], lr=0.1)

    one, p, other, q = _both(make, free=free)
    assert_same_step(one, p, other, q)


@FREE
def test_sums_of_half_gradients_are_float32_where_they_are_freed(free: bool) -> None:
    small = torch.finfo(BF16).eps / 2  # 1 + small + small is 1 in bfloat16
    param = nn.Parameter(torch.zeros(70, dtype=BF16))
    optimizer = fastopt.offload(fastopt.SGD([param], lr=1.0), free_grads=free, transfers=LateTransfers)
    for _ in range(2):
        with torch.no_grad():
            param.zero_()
        for value in (1.0, small, small):
            (param * value).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert_same_bits(param.detach(), torch.full((70,), -1 - 2 * small if free else -1.0, dtype=BF16))


@FREE
def test_accumulation(free: bool) -> None:
    p, q = offload_params(), offload_params()
    one = fastopt.AdamW(p, lr=0.1)
    other = fastopt.offload(fastopt.AdamW(q, lr=0.1), free_grads=free, transfers=LateTransfers)
    for step in range(12):
        for params, optimizer in ((p, one), (q, other)):
            backward(params, step)
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    assert_same_step(one, p, other, q)


def test_clip_by_the_norm_of_the_step_before() -> None:
    p, q = offload_params(), offload_params()
    one = fastopt.SGD(p, lr=0.1)
    other = fastopt.offload(
        fastopt.SGD(q, lr=0.1, max_grad_norm=0.5), free_grads=True, clip="previous", transfers=LateTransfers
    )
    previous = None
    for step in range(5):
        backward(p, step)
        backward(q, step)
        grads = [param.grad for param in p if param.grad is not None]
        norm = fastopt.get_total_norm(grads)
        if previous is not None:
            fastopt.clip_grads_with_norm_(p, 0.5, previous)
        previous = norm
        one.step()
        other.step()
        assert_same_bits(other.grad_norm, norm)
        one.zero_grad()
        other.zero_grad()
    for a, b in zip(p, q, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@FREE
@pytest.mark.parametrize("kind", [fastopt.AdamW, fastopt.Adafactor])
def test_layouts_and_types(free: bool, kind: Any) -> None:
    def params() -> list[nn.Parameter]:
        images = some_values((3, 4, 5, 6), torch.float32, 1).to(memory_format=torch.channels_last)
        columns = some_values((6, 8), torch.float32, 2)[:, 1:4]
        made = [images, columns, some_values((5, 7), torch.float32, 3).T, some_values((4, 4), torch.float64, 4)]
        made.append(some_values((9,), torch.float16, 5))
        return [nn.Parameter(tensor) for tensor in made]

    p, q = params(), params()
    one, other = kind(p), fastopt.offload(kind(q), free_grads=free, transfers=LateTransfers)
    for step in range(4):
        for group, optimizer in ((p, one), (q, other)):
            for i, param in enumerate(group):
                param.backward(some_values(param.shape, param.dtype, 10 * step + i).as_strided(*_odd(param)))
            optimizer.step()
            optimizer.zero_grad()
    assert_same_step(one, p, other, q)


def _odd(param: Tensor) -> tuple[torch.Size, tuple[int, ...]]:
    return param.shape, torch.empty(param.shape).stride()


@FREE
def test_complex_numbers(free: bool) -> None:
    values = torch.complex(some_values((37,), torch.float32, 1), some_values((37,), torch.float32, 2))
    p, q = [nn.Parameter(values.clone())], [nn.Parameter(values.clone())]
    one, other = fastopt.Adam(p), fastopt.offload(fastopt.Adam(q), free_grads=free, transfers=LateTransfers)
    for _ in range(3):
        for params, optimizer in ((p, one), (q, other)):
            (params[0] * params[0].conj()).real.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same_step(one, p, other, q)


@FREE
def test_sparse_gradients(free: bool) -> None:
    def embedding() -> nn.Embedding:
        torch.manual_seed(0)
        return nn.Embedding(9, 5, sparse=True)

    a, b = embedding(), embedding()
    one = fastopt.SparseAdam(a.parameters())
    other = fastopt.offload(fastopt.SparseAdam(b.parameters()), free_grads=free, transfers=LateTransfers)
    for step in range(3):
        for model, optimizer in ((a, one), (b, other)):
            for _ in range(2):
                model(torch.tensor([step, 3, 3, 8])).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same_step(one, [a.weight], other, [b.weight])


def test_gradients_of_another_type() -> None:
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("this torch has no gradients of another type than their parameter's")
    p, q = offload_params(BF16), offload_params(BF16)
    one, other = fastopt.AdamW(p), fastopt.offload(fastopt.AdamW(q), transfers=LateTransfers)
    for step in range(3):
        for params, optimizer in ((p, one), (q, other)):
            for i, param in enumerate(params):
                param.grad_dtype = torch.float32
                param.grad = some_values(param.shape, torch.float32, 10 * step + i)
            optimizer.step()
    assert_same_step(one, p, other, q)
