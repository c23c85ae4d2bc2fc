"""Conversion from torch and back, and from one optimizer to another."""

import copy

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, StepLR

import fastopt
from optimizer_cases import PLAIN_CASES, PLAIN_TORCH_CASES, ROWS, Case, ids
from support import HALF, assert_same_bits, named, some_params, some_values, step_on_some_grads

CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
TORCH = pytest.mark.parametrize("case", PLAIN_TORCH_CASES, ids=ids)


@TORCH
def test_from_torch_goes_on(case: Case, numbers_in) -> None:
    """Three steps in torch and three in ours equal six in torch; groups have different options."""
    numbers_in(torch.float64)

    def groups(params: list[torch.Tensor]) -> list[dict]:
        return [{"params": params[:1], "lr": 0.01}, {"params": params[1:], "maximize": True}]

    params, expected = some_params(torch.float64), some_params(torch.float64)
    theirs, whole = case.make_theirs(groups(params)), case.make_theirs(groups(expected))
    for step in range(3):
        step_on_some_grads(theirs, params, step)
        step_on_some_grads(whole, expected, step)
    ours = fastopt.from_torch(theirs)
    assert type(ours) is case.ours
    for step in range(3, 6):
        step_on_some_grads(ours, params, step)
        step_on_some_grads(whole, expected, step)
    for a, b in zip(params, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for mine, torchs in zip(ours.param_groups, whole.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k in torchs and k != "params"} == {
            k: v for k, v in torchs.items() if k != "params"
        }


@TORCH
def test_to_torch_goes_on(case: Case, numbers_in) -> None:
    numbers_in(torch.float64)
    params, expected = some_params(torch.float64), some_params(torch.float64)
    ours, whole = case.make(params), case.make_theirs(expected)
    for step in range(3):
        step_on_some_grads(ours, params, step)
        step_on_some_grads(whole, expected, step)
    theirs = ours.to_torch()
    assert type(theirs) is case.theirs
    assert theirs.defaults == whole.defaults
    assert theirs.param_groups[0].keys() == whole.param_groups[0].keys()
    for step in range(3, 6):
        step_on_some_grads(theirs, params, step)
        step_on_some_grads(whole, expected, step)
    for a, b in zip(params, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@TORCH
def test_to_torch_rounds_wide_states(case: Case, dtype: torch.dtype) -> None:
    params = some_params(dtype)
    ours = case.make(params, state_dtype=torch.float32)
    step_on_some_grads(ours, params, 0)
    kept = copy.deepcopy(ours.state[params[0]])
    theirs = ours.to_torch()
    for key, state in theirs.state[params[0]].items():
        if state.dim():
            assert_same_bits(state, kept[key].to(dtype))
    step_on_some_grads(theirs, params, 1)


def test_names_and_initial_lr_travel() -> None:
    params = named(w=torch.ones(3, requires_grad=True))
    theirs = torch.optim.Adam(params, lr=0.1)
    StepLR(theirs, 1)
    ours = fastopt.from_torch(theirs)
    assert ours.param_groups[0]["initial_lr"] == 0.1
    assert ours.param_groups[0].get("param_names") == theirs.param_groups[0].get("param_names")
    assert ours.to_torch().param_groups[0]["initial_lr"] == 0.1


def test_what_cannot_be_converted() -> None:
    param = torch.ones(3, requires_grad=True)

    class Own(torch.optim.Adam):
        pass

    for optimizer in (Own([param]), fastopt.NonlinearCG([param]), fastopt.Adam([param])):
        with pytest.raises(TypeError, match="fastopt has no equivalent of"):
            fastopt.from_torch(optimizer)
    with pytest.raises(RuntimeError, match="does not support differentiable=True"):
        fastopt.from_torch(torch.optim.Adam([param], differentiable=True))
    with pytest.raises(TypeError, match="torch has no Lion"):
        fastopt.Lion([param]).to_torch()
    with pytest.raises(ValueError, match=r"torch.optim.SGD has no lr_in_momentum: True"):
        fastopt.SGD([param], momentum=0.9, lr_in_momentum=True).to_torch()
    for limit in (1.0, 0.0):
        with pytest.raises(ValueError, match=rf"torch.optim.Adam has no max_grad_norm: {limit}"):
            fastopt.Adam([param], max_grad_norm=limit).to_torch()


def test_initial_sums_of_adagrad_are_those_of_the_group() -> None:
    """That holds at construction, for groups added later, and on the way to torch."""
    params = [torch.ones(3, requires_grad=True) for _ in range(3)]
    ours = fastopt.Adagrad(
        [{"params": params[0]}, {"params": params[1], "initial_accumulator_value": 2.0}], initial_accumulator_value=0.5
    )
    ours.add_param_group({"params": params[2]})
    theirs = ours.to_torch()
    assert [theirs.state[p]["sum"][0].item() for p in params] == [0.5, 2.0, 0.5]
    for param in params:
        param.grad = torch.ones(3)
    ours.step()
    assert [ours.state[p]["sum"][0].item() for p in params] == [1.5, 3.0, 1.5]


@CASES
@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_switch_is_a_fresh_optimizer_from_there_on(case: Case, row) -> None:
    params, expected = some_params(), some_params()
    optimizer = case.make(params)
    for step in range(3):
        step_on_some_grads(optimizer, params, step)
    with torch.no_grad():
        for a, b in zip(params, expected, strict=True):
            b.copy_(a)
    if "weight_decay" in optimizer.defaults and row.ours is fastopt.Rprop:
        optimizer.param_groups[0]["weight_decay"] = 0  # it has no such option
    switched = fastopt.switch(optimizer, row.ours, lr=row.lr, **row.plain)
    assert switched is optimizer
    assert type(switched) is row.ours
    fresh = row.ours(expected, lr=row.lr, **row.plain)
    assert {k: v for k, v in switched.param_groups[0].items() if k not in ("params", "weight_decay")} == {
        k: v for k, v in fresh.param_groups[0].items() if k not in ("params", "weight_decay")
    }
    if "weight_decay" in fresh.defaults:
        fresh.param_groups[0]["weight_decay"] = switched.param_groups[0]["weight_decay"]
    for step in range(3, 6):
        step_on_some_grads(switched, params, step)
        step_on_some_grads(fresh, expected, step)
    for a, b in zip(params, expected, strict=True):
        assert_same_bits(a, b)


def test_switch_keeps_groups_schedulers_hooks_and_scaler() -> None:
    params = some_params()
    optimizer = fastopt.AdamW(
        [
            {"params": params[:1], "weight_decay": 0.1, "tag": "first", "max_lr": 4e-3},
            {"params": params[1:], "weight_decay": 0.0, "lr": 1e-4, "max_grad_norm": 2.0},
        ],
        lr=1e-3,
    )
    scheduler = StepLR(optimizer, 2, gamma=0.5)
    calls = []
    optimizer.register_step_post_hook(lambda o, a, k: calls.append(type(o).__name__))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def step(seed: int) -> None:
        scaler.scale(torch.ones(()))
        for i, param in enumerate(params):
            param.grad = some_values(param.shape, param.dtype, seed + i) * 4
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

    for seed in range(3):
        step(seed)
    fastopt.switch(optimizer, fastopt.SGD, lr=0.1, momentum=0.9)
    first, second = optimizer.param_groups
    assert (first["lr"], first["weight_decay"], first["momentum"]) == (0.1, 0.1, 0.9)
    assert second["lr"] == pytest.approx(0.01)
    assert (second["weight_decay"], second["max_grad_norm"]) == (0.0, 2.0)
    assert first["initial_lr"] == pytest.approx(0.2)
    assert "betas" not in first
    assert first["tag"] == "first"
    assert first["max_lr"] == pytest.approx(0.1 / 5e-4 * 4e-3)
    step(10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.005])
    assert calls == ["AdamW", "AdamW", "AdamW", "SGD"]
    assert set(optimizer.state[params[0]]) == {"momentum_buffer"}


def test_schedulers_that_start_from_base_rates_are_told() -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = fastopt.Adam([param], lr=1e-3)
    scheduler = LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    optimizer.step()
    scheduler.step()
    fastopt.switch(optimizer, fastopt.SGD, lr=0.1)
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_switch_during_a_warm_up_from_zero() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = fastopt.Adam([param], lr=1e-3)
    LambdaLR(optimizer, lambda epoch: epoch / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    fastopt.switch(optimizer, fastopt.AdaBound, lr=0.0)
    assert optimizer.param_groups[0]["base_lr"] == 0
    param.grad = torch.ones(3)
    optimizer.step()
    assert (param == 1).all()


def test_switch_errors_change_nothing() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = fastopt.Adam([param], lr=0.1, weight_decay=0.1)
    CosineAnnealingLR(optimizer, 5)
    param.grad = torch.ones(3)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    for error, arguments, options in [
        (TypeError, (optimizer, torch.optim.SGD), {"lr": 0.1}),
        (TypeError, (torch.optim.Adam([param]), fastopt.SGD), {"lr": 0.1}),
        (TypeError, (fastopt.Lookahead(optimizer), fastopt.SGD), {"lr": 0.1}),
        (TypeError, (optimizer, fastopt.SGD), {"lr": 0.1, "betas": (0.9, 0.9)}),
        (TypeError, (optimizer, fastopt.SGD), {}),
        (ValueError, (optimizer, fastopt.SGD), {"lr": -0.1}),
        (ValueError, (optimizer, fastopt.Rprop), {"lr": 0.1}),
    ]:
        with pytest.raises(error):
            fastopt.switch(*arguments, **options)
    assert type(optimizer) is fastopt.Adam
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
