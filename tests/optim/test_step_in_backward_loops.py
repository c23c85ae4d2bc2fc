"""``fastopt.step_in_backward`` in loops that others wrote: they call ``optimizer.step()``, and wrap models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastopt
from support import assert_same_bits, assert_same_step, some_values

PASSES = (3, 3, 1, 3, 2)  # of each step: an epoch may end with fewer


def _net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def _loss(model: nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    loss: Tensor = (model(some_values((5, 4), dtype, seed=seed)).float() - 1).square().mean()
    return loss


def _trainer(model: nn.Module, optimizer: torch.optim.Optimizer, dtype: torch.dtype = torch.float32) -> None:
    """As trainers do it: they step after some passes, and at the end of an epoch."""
    seed = 0
    for passes in PASSES:
        for _ in range(passes):
            (_loss(model, seed, dtype) / passes).backward()
            seed += 1
        optimizer.step()
        optimizer.zero_grad()


def test_optimizer_step_steps_what_waits() -> None:
    ordinary, inside = _net(), _net()
    optimizers = [fastopt.NAdam(model.parameters(), lr=0.05) for model in (ordinary, inside)]
    fastopt.step_in_backward(inside, optimizers[1], every=3)
    for model, optimizer in zip((ordinary, inside), optimizers, strict=True):
        _trainer(model, optimizer)
    assert optimizers[1].state[inside[0].weight]["step"] == len(PASSES)
    for ours, expected in zip(inside.parameters(), ordinary.parameters(), strict=True):
        assert_same_step(optimizers[1], ours, optimizers[0], expected)


def test_half_sums_do_not_wait_longer() -> None:
    """Float32 sums of bfloat16 gradients, which ``zero_grad`` does not know."""
    model = _net(torch.bfloat16)
    optimizer = fastopt.AdamW(model.parameters(), lr=0.05)
    handle = fastopt.step_in_backward(model, optimizer, every=3)
    _trainer(model, optimizer, torch.bfloat16)
    assert {int(state["step"]) for state in optimizer.state.values()} == {len(PASSES)}
    assert not handle._sums


@pytest.mark.parametrize("clip", ["tensor", "previous"])
def test_what_waits_is_clipped(clip: str) -> None:
    model, whole = _net(), _net()
    steps = []
    for net, every in ((model, 2), (whole, 1)):
        optimizer = fastopt.SGD(net.parameters(), lr=0.1, max_grad_norm=0.01)
        fastopt.step_in_backward(net, optimizer, every=every, clip=clip)
        for seed in range(3):
            _loss(net, seed).backward()  # one pass, where ``every`` says two
            optimizer.step()
        steps.append([p.detach() for p in net.parameters()])
        if clip == "previous":
            assert optimizer.grad_norm > 0.01
    for ours, expected in zip(*steps, strict=True):
        assert_same_bits(ours, expected)


def test_more_steps_than_the_loop_makes_are_an_error() -> None:
    model = _net()
    optimizer = fastopt.AdamW(model.parameters())
    fastopt.step_in_backward(model, optimizer, every=2)
    for seed in range(4):
        _loss(model, seed).backward()
    with pytest.raises(RuntimeError, match=r"2 steps in backward since .* every=2 has to be the number of"):
        optimizer.step()
    for seed in range(2):
        _loss(model, seed).backward()
    optimizer.step()


def test_a_closure_may_run_backward() -> None:
    model, expected = _net(), _net()
    optimizer = fastopt.AdamW(model.parameters(), lr=0.05)
    fastopt.step_in_backward(model, optimizer)
    ordinary = fastopt.AdamW(expected.parameters(), lr=0.05)
    for seed in range(3):
        for net, own in ((model, optimizer), (expected, ordinary)):

            def closure(net: nn.Module = net, own: torch.optim.Optimizer = own, seed: int = seed) -> Tensor:
                own.zero_grad()
                loss = _loss(net, seed)
                loss.backward()
                return loss

            assert own.step(closure) > 0
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert_same_step(optimizer, ours, ordinary, theirs)


def test_a_distributed_wrapper_that_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/distributed has a true one."""
    model = _net()
    fastopt.step_in_backward(model, fastopt.AdamW(model.parameters()))
    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", model)
    with pytest.raises(RuntimeError, match="DistributedDataParallel averages gradients"):
        _loss(model, 0)


@pytest.mark.parametrize("replacement", [[], [torch.ones(44, requires_grad=True)]])
def test_parameters_that_an_engine_has_replaced(replacement: list[Tensor]) -> None:
    """DeepSpeed's ZeRO puts one flat tensor into each group."""
    model = _net()
    optimizer = fastopt.AdamW(model.parameters())
    fastopt.step_in_backward(model, optimizer)
    optimizer.param_groups[0]["params"] = replacement
    with pytest.raises(RuntimeError, match=r"parameter \d of group 0 \(shape .*\) is no longer in its group"):
        _loss(model, 0).backward()


def test_small_gradients_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a twentieth of the largest gradient: a step of its own costs more than the update of a bias."""
    layers = [nn.Linear(128, 128) for _ in range(12)]
    model = nn.Sequential(*layers)
    params = list(model.parameters())
    handle = fastopt.step_in_backward(model, fastopt.AdamW(params))
    steps: list[int] = []
    update = type(handle)._update
    monkeypatch.setattr(type(handle), "_update", lambda *args: (steps.append(1), update(*args)))
    most = 0

    def look(_: torch.Tensor) -> None:
        nonlocal most
        most = max(most, sum(p.grad.nbytes for p in params if p.grad is not None))

    for param in params:
        param.register_hook(lambda grad: look(grad))
    model(torch.ones(2, 128)).sum().backward()
    largest = params[0].nbytes
    assert most <= 0.05 * largest  # that of the parameter itself comes on top
    assert len(steps) <= 13
    assert all(param.grad is None for param in params)
