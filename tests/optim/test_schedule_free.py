"""Schedule-Free: what the parameters are in training and in evaluation, and the numbers that a group has."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import fastopt
from precision_cases import train
from support import HALF, assert_same_bits, named, some_values

BOTH = pytest.mark.parametrize("cls", [fastopt.ScheduleFreeAdamW, fastopt.ScheduleFreeSGD])
LR = 0.05


def _params(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [some_values(size, dtype, seed=size).requires_grad_() for size in (1, 70)]


def _trained(cls: Any, dtype: torch.dtype = torch.float64, steps: int = 5, **options: Any) -> tuple[Any, Any]:
    params = _params(dtype)
    optimizer = cls(params, lr=LR, **options)
    train(optimizer, params, range(steps))
    return optimizer, params


def _beta(optimizer: Any) -> float:
    return optimizer._beta(optimizer.param_groups[0])


@BOTH
def test_trap_eval_is_the_weighted_average_of_all_z(cls: Any) -> None:
    """Weights are k^r times the square of the largest learning rate so far, which includes the warm-up."""
    params = _params()
    optimizer = cls(params, lr=LR, warmup_steps=4, r=1.0)
    weights, points = [], []
    for step in range(6):
        optimizer.param_groups[0]["lr"] = LR / (1 + step // 5)  # the last is smaller, and its weight is not
        train(optimizer, params, range(step, step + 1))
        weights.append((step + 1) * (LR * min(1, (step + 1) / 4)) ** 2)
        points.append(optimizer.state[params[1]]["z"].clone())
    y = params[1].detach().clone()
    optimizer.eval()
    x = sum(w * z for w, z in zip(weights, points, strict=True)) / sum(weights)
    torch.testing.assert_close(params[1].detach(), x, rtol=1e-13, atol=1e-14)
    beta = _beta(optimizer)
    torch.testing.assert_close(y, (1 - beta) * points[-1] + beta * x, rtol=1e-13, atol=1e-14)
    group = optimizer.param_groups[0]
    assert (group["k"], group["lr_max"]) == (6, LR)
    assert group["weight_sum"] == pytest.approx(sum(weights), rel=1e-14)
    assert group["scheduled_lr"] == LR / 2


@BOTH
def test_trap_a_step_in_evaluation_is_an_error(cls: Any) -> None:
    """And nothing has changed then, the group's numbers included."""
    optimizer, params = _trained(cls)
    optimizer.eval()
    before, values = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match=rf"{cls.__name__}: the parameters are the averages of eval\(\); call train"):
        optimizer.step()
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    for param, value in zip(params, values, strict=True):
        assert_same_bits(param, value)
    optimizer.train()
    optimizer.step()


@BOTH
def test_trap_numbers_are_those_of_the_group(cls: Any) -> None:
    """A parameter that comes late joins in the count of its group; another group has its own."""
    early, late, other = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    optimizer = cls([early, late], lr=LR)
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": [other]})
        for param in (early, *((late, other) if step >= 2 else ())):
            param.grad = torch.ones_like(param)
        optimizer.step()
    assert [group["k"] for group in optimizer.param_groups] == [4, 2]
    assert [group["weight_sum"] for group in optimizer.param_groups] == pytest.approx([4 * LR**2, 2 * LR**2])
    z, y = (optimizer.state[late]["z"], late.detach())
    first = 1 - LR * (1 if cls is fastopt.ScheduleFreeSGD else 1 / ((1 - 0.999) / (1 - 0.999**3)) ** 0.5)
    x = 1 + (first - 1) / 3  # the third of three points; the others are where it began
    x += (z - x) / 4
    torch.testing.assert_close(y, 0.1 * z + 0.9 * x, rtol=1e-7, atol=0)  # eps


@BOTH
def test_train_and_eval_twice_change_nothing(cls: Any) -> None:
    optimizer, params = _trained(cls)
    values = [p.detach().clone() for p in params]
    optimizer.train()
    for param, value in zip(params, values, strict=True):
        assert_same_bits(param, value)
    optimizer.eval()
    averages = [p.detach().clone() for p in params]
    optimizer.eval()
    for param, average in zip(params, averages, strict=True):
        assert_same_bits(param, average)
    optimizer.train()
    for param, value, average in zip(params, values, averages, strict=True):
        assert not torch.equal(value, average)
        torch.testing.assert_close(param.detach(), value, rtol=1e-14, atol=1e-15)


@BOTH
def test_before_the_first_step_there_is_nothing_to_change(cls: Any) -> None:
    params = _params()
    optimizer = cls(params, lr=LR)
    values = [p.detach().clone() for p in params]
    optimizer.eval()
    optimizer.train()
    for param, value in zip(params, values, strict=True):
        assert_same_bits(param, value)


@pytest.mark.parametrize(
    ("master", "dtype"), [("float32", HALF[0]), ("float32", HALF[1]), ("split", torch.bfloat16)], ids=str
)
@BOTH
def test_masters_change_too(cls: Any, master: str, dtype: torch.dtype) -> None:
    """Training, evaluation and training again are those of float32 parameters, to the bit."""
    params = _params(dtype)
    twins = [p.detach().float().requires_grad_() for p in params]
    ours, theirs = cls(params, lr=LR, master=master), cls(twins, lr=LR)
    for steps in (range(3), range(3, 6)):
        train(ours, params, steps, torch.float32)
        train(theirs, twins, steps, torch.float32)
        for change in ("eval", "train"):
            getattr(ours, change)()
            getattr(theirs, change)()
            for param, twin in zip(params, twins, strict=True):
                wide = fastopt.optim._master.exact_value(param, ours.state[param])
                assert_same_bits(wide, twin, change)
                if master == "float32":
                    assert_same_bits(param, twin.to(dtype), change)
                else:
                    assert (param.float() - twin).abs().max() <= 2**-8 * twin.abs().max()


@pytest.mark.parametrize("master", [None, "float32"])
@BOTH
def test_averaged_gives_the_parameters_back(cls: Any, master: str | None) -> None:
    """To the bit; the averages are those of eval()."""
    optimizer, params = _trained(cls, torch.bfloat16, master=master)
    twin, others = _trained(cls, torch.bfloat16, master=master)
    twin.eval()
    before = [p.detach().clone() for p in params]
    with optimizer.averaged():
        for param, average in zip(params, others, strict=True):
            assert_same_bits(param, average)
    for param, value in zip(params, before, strict=True):
        assert_same_bits(param, value)
    assert optimizer.param_groups[0]["train_mode"]
    with_ema, _ = _trained(cls, ema=0.9)
    with with_ema.averaged():
        for param, state in with_ema.state.items():
            assert_same_bits(param, state["ema"])


@BOTH
def test_copies_follow(cls: Any) -> None:
    params = _params(torch.float32)
    copies = [torch.zeros_like(p, dtype=torch.bfloat16) for p in params]
    optimizer = cls([{"params": params, "copies": copies}], lr=LR)
    train(optimizer, params, range(3))
    for change in (optimizer.eval, optimizer.train):
        change()
        for param, narrow in zip(params, copies, strict=True):
            assert_same_bits(narrow, param.detach().to(torch.bfloat16))


@pytest.mark.parametrize("mode", ["train", "eval"])
@BOTH
def test_checkpoints_know_the_mode(cls: Any, mode: str) -> None:
    """Resumed training has the bits of the one that went on."""
    optimizer, params = _trained(cls, torch.float32, warmup_steps=8)
    getattr(optimizer, mode)()
    saved = copy.deepcopy((optimizer.state_dict(), [p.detach() for p in params]))
    resumed = [value.clone().requires_grad_() for value in saved[1]]
    other = cls(resumed, lr=1.0)
    other.load_state_dict(saved[0])
    assert other.param_groups[0]["train_mode"] == (mode == "train")
    for one, tensors in ((optimizer, params), (other, resumed)):
        one.train()
        train(one, tensors, range(5, 8))
    for a, b in zip(params, resumed, strict=True):
        assert_same_bits(a, b)


@BOTH
def test_a_step_skipped_for_an_inf_does_not_count(cls: Any) -> None:
    optimizer, _ = _trained(cls, torch.float32)
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), torch.full((), 4.0)
    optimizer.step()
    assert optimizer.param_groups[0]["k"] == 5


@BOTH
def test_switching_begins_anew(cls: Any) -> None:
    """The numbers of a group belong to the class."""
    optimizer, params = _trained(cls)
    fastopt.switch(optimizer, fastopt.AdamW, lr=1e-3)
    assert not optimizer.param_groups[0].keys() & {"k", "weight_sum", "train_mode"}
    train(optimizer, params, range(2))
    fastopt.switch(optimizer, cls, lr=LR)
    train(optimizer, params, range(2))
    assert optimizer.param_groups[0]["k"] == 2


@BOTH
def test_a_bad_parameter_leaves_the_numbers(cls: Any) -> None:
    good, culprit = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = cls(named(good=good, culprit=culprit))
    good.grad, culprit.grad = torch.ones(3), torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="culprit"):
        optimizer.step()
    assert optimizer.param_groups[0]["k"] == 0


@BOTH
def test_parts_of_a_model_are_refused(cls: Any) -> None:
    """ZeroRedundancyOptimizer would not send the changed parameters to the other processes."""
    optimizer, params = _trained(cls)
    optimizer._has_partition = True
    before = params[1].detach().clone()
    for change in (optimizer.eval, lambda: optimizer.averaged().__enter__()):
        with pytest.raises(RuntimeError, match="ZeroRedundancyOptimizer each process would change its own"):
            change()
    assert_same_bits(params[1], before)
    assert optimizer.param_groups[0]["train_mode"]
