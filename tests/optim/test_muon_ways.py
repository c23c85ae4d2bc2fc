"""Muon with everything else: storage, checkpoints, conversion, errors, GradScaler, the monitor; its groups."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import fastopt
from muon_cases import BACKENDS, NEEDS_TORCHS, some_matrices, train_on
from support import assert_same_bits, assert_same_step, running, some_values, states_of, step_on_some_grads


@BACKENDS
@pytest.mark.parametrize("master", ["float32", "split"])
def test_a_master_is_the_float32_parameter(master: str, backend: str) -> None:
    half = some_matrices(torch.bfloat16)
    wide = [param.detach().float().requires_grad_() for param in half]
    one, other = fastopt.Muon(half, lr=0.1, master=master), fastopt.Muon(wide, lr=0.1)
    with running(backend):
        for step in range(4):
            for i, (p, q) in enumerate(zip(half, wide, strict=True)):
                p.grad = some_values(p.shape, torch.bfloat16, 10 * step + i)
                q.grad = p.grad.float()
            one.step()
            other.step()
    for p, q in zip(half, wide, strict=True):
        if master == "float32":
            assert_same_bits(one.state[p]["master"], q.detach())
        assert_same_bits(one.state[p]["momentum_buffer"], other.state[q]["momentum_buffer"])
        assert (p.float() - q).abs().max().item() < 0.02 if p.numel() else True


OPTIONS: list[dict[str, Any]] = [
    {"rounding": "stochastic", "rounding_seed": 3},
    {"state_dtype": torch.bfloat16, "rounding_seed": 3},
    {"state_dtype": "int8"},
    {"ema": 0.9, "ema_warmup": True},
    {"ema": 0.9},
    {"l1": 0.01, "max_grad_norm": 0.5, "max_grad_value": 0.01},
    {"independent_weight_decay": True},
    {"cautious_weight_decay": True, "weight_decay": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_common_options_equal_reference(options: dict[str, Any]) -> None:
    shapes = [(70, 80), (9, 5)]
    dtype = torch.float32 if options.get("state_dtype") == "int8" else torch.bfloat16
    ours, expected = some_matrices(dtype, shapes), some_matrices(dtype, shapes)
    one, other = fastopt.Muon(ours, lr=0.1, **options), fastopt.Muon(expected, lr=0.1, **options)
    train_on(one, ours, 4)
    with running("reference"):
        train_on(other, expected, 4)
    assert_same_step(one, ours, other, expected)
    if "rounding_seed" in options:
        assert one.state[ours[0]]["step"] == 4


def test_random_numbers_go_on_with_the_step() -> None:
    """The parameter's rounding takes the count of the step; counted twice, checkpoints would repeat others."""
    param = torch.ones(64, 64, dtype=torch.bfloat16, requires_grad=True)
    optimizer = fastopt.Muon([param], lr=1e-4, weight_decay=0.0, rounding="stochastic", rounding_seed=1)
    moved = []
    for _ in range(2):
        before = param.detach().clone()
        param.grad = some_values((64, 64), torch.bfloat16, seed=0)
        optimizer.step()
        moved.append(param.detach() != before)
    assert optimizer.state[param]["step"] == 2
    assert not torch.equal(*moved)


def test_copies_and_averages_are_of_the_new_parameter() -> None:
    param, copied = some_values((9, 9), torch.float32, seed=0).requires_grad_(), torch.zeros(9, 9, dtype=torch.float16)
    optimizer = fastopt.Muon([{"params": [param], "copies": [copied]}], lr=0.1, ema=0.5)
    starts = [param.detach().clone()]
    for step in range(3):
        step_on_some_grads(optimizer, [param], step + 1)
        assert_same_bits(copied, param.detach().half())
        starts.append(param.detach().clone())
    expected = starts[1]
    for value in starts[2:]:
        expected = torch.lerp(expected, value, 0.5)
    torch.testing.assert_close(optimizer.state[param]["ema"], expected)


def test_resumes_from_a_checkpoint() -> None:
    whole, first = some_matrices(), some_matrices()
    one, other = fastopt.Muon(whole, lr=0.1), fastopt.Muon(first, lr=0.1)
    for step in range(4):
        step_on_some_grads(one, whole, step + 1)
        if step == 2:
            second = [param.detach().clone().requires_grad_() for param in first]
            resumed = fastopt.Muon(second, lr=9.0)
            resumed.load_state_dict(copy.deepcopy(other.state_dict()))
            first, other = second, resumed
        step_on_some_grads(other, first, step + 1)
    assert_same_step(one, whole, other, first)


@NEEDS_TORCHS
def test_from_torch_and_back() -> None:
    params = some_matrices()
    theirs = torch.optim.Muon(params, lr=0.1, nesterov=False)
    train_on(theirs, params, 2)
    ours = fastopt.from_torch(theirs)
    assert type(ours) is fastopt.Muon
    assert isinstance(ours, torch.optim.Muon)
    step_on_some_grads(ours, params, 5)
    back = ours.to_torch()
    assert type(back) is torch.optim.Muon
    assert back.param_groups[0]["nesterov"] is False
    step_on_some_grads(back, params, 6)
    ours.param_groups[0]["flatten"] = True
    with pytest.raises(ValueError, match=r"torch.optim.Muon has no flatten: True"):
        ours.to_torch()


def test_parameters_without_gradient_stay() -> None:
    params = some_matrices(shapes=[(4, 4), (4, 4)])
    params[0].grad = torch.ones(4, 4)
    before = params[1].detach().clone()
    optimizer = fastopt.Muon(params, lr=0.1)
    optimizer.step()
    assert_same_bits(params[1].detach(), before)
    assert params[1] not in optimizer.state or not optimizer.state[params[1]]
    params[1].grad = torch.ones(4, 4)
    optimizer.step()
    assert set(optimizer.state[params[1]]) == {"momentum_buffer"}


@pytest.mark.parametrize(
    ("break_it", "error", "text"),
    [
        (lambda p: setattr(p, "grad", torch.ones(8, 9).to_sparse()), RuntimeError, "does not support sparse gradients"),
        (lambda p: setattr(p, "data", p.data.expand(8, 9)), RuntimeError, "expanded"),
    ],
    ids=["sparse", "expanded"],
)
def test_nothing_is_written_on_bad_input(break_it: Any, error: type[Exception], text: str) -> None:
    good = some_values((8, 9), torch.float32, seed=0).requires_grad_()
    bad = torch.ones(1, 9).expand(8, 9).clone().requires_grad_()
    optimizer = fastopt.Muon([good, bad], lr=0.1)
    train_on(optimizer, [good, bad], 1)
    bad = optimizer.param_groups[0]["params"][1]
    bad.data = torch.ones(1, 9).expand(8, 9) if text == "expanded" else bad.data
    if text != "expanded":
        break_it(bad)
    values, states = good.detach().clone(), states_of(optimizer)
    good.grad = torch.ones(8, 9)
    with pytest.raises(error, match=text):
        optimizer.step()
    assert_same_bits(good.detach(), values)
    assert str(states_of(optimizer)) == str(states)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"Muon only supports 2D parameters .*\[5\]"):
        fastopt.Muon([torch.ones(5, requires_grad=True)])
    with pytest.raises(ValueError, match=r"Muon only supports 2D parameters .*\[2, 3, 4\]"):
        fastopt.Muon([torch.ones(2, 3, 4, requires_grad=True)])
    with pytest.raises(ValueError, match=r"Muon only supports 2D parameters .*\[5\]"):
        fastopt.Muon([torch.ones(5, requires_grad=True)], flatten=True)
    for wrong, text in (
        (dict(lr=-1.0), "Learning rate should be >= 0 but is: -1.0"),
        (dict(momentum=-1.0), "momentum should be >= 0 but is: -1.0"),
        (dict(weight_decay=-1.0), "weight decay should be >= 0 but is: -1.0"),
        (dict(eps=-1.0), "eps should be >= 0"),
        (dict(adjust_lr_fn="rms"), "Adjust learning rate function rms is not supported"),
        (dict(ns_coefficients=(1.0, 2.0)), "exactly 3 values"),
        (dict(ns_steps=100), "ns_steps"),
        (dict(ns_steps=2.5), "ns_steps"),
        (dict(betas=(1.0, 0.9)), "beta parameter at index 0"),
    ):
        with pytest.raises(ValueError, match=text):
            fastopt.Muon([torch.ones(2, 2, requires_grad=True)], **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cautious: a mask would undo"):
        fastopt.Muon([torch.ones(2, 2, requires_grad=True)], cautious=True)
    fastopt.Muon([torch.ones(2, requires_grad=True)], use_muon=False, cautious=True)
    optimizer = fastopt.Muon([torch.ones(2, 2, requires_grad=True)])
    with pytest.raises(ValueError, match="2D"):
        optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1
    number = torch.ones(2, 2, dtype=torch.complex64, requires_grad=True)
    number.grad = torch.ones_like(number)
    with pytest.raises(RuntimeError, match=r"Muon does not support complex parameters \(parameter 0 of group 0"):
        fastopt.Muon([number]).step()


def test_grad_scaler() -> None:
    ours, expected = some_matrices(shapes=[(8, 9)]), some_matrices(shapes=[(8, 9)])
    one, other = fastopt.Muon(ours, lr=0.1), fastopt.Muon(expected, lr=0.1)
    for step, found in enumerate((0.0, 1.0, 0.0)):
        one.grad_scale, one.found_inf = torch.tensor(4.0), torch.tensor(found)
        ours[0].grad = 4 * some_values((8, 9), torch.float32, step)
        expected[0].grad = some_values((8, 9), torch.float32, step)
        one.step()
        if not found:
            other.step()
            assert_same_bits(ours[0].grad, expected[0].grad)
    assert_same_step(one, ours, other, expected)


def test_monitor() -> None:
    params = some_matrices(shapes=[(8, 9), (8, 9), (5, 40), (7,)])
    optimizer = fastopt.Muon([{"params": params[:3]}, {"params": params[3:], "use_muon": False}], lr=0.1)
    monitor = fastopt.monitor(optimizer, every=2)
    for step in range(3):
        before = [param.detach().double() for param in params]
        step_on_some_grads(optimizer, params, step)
        if step == 1:
            continue
        for param, old, row in zip(params, before, monitor.latest, strict=True):
            assert row.grad_norm == pytest.approx(param.grad.double().norm().item(), rel=1e-6)
            assert row.param_norm == pytest.approx(param.detach().double().norm().item(), rel=1e-6)
            assert row.update_norm == pytest.approx((param.detach().double() - old).norm().item(), rel=1e-6)


def test_lookahead_and_schedulers() -> None:
    params = some_matrices(shapes=[(8, 9)])
    inner = fastopt.Muon(params, lr=0.1)
    optimizer = fastopt.Lookahead(inner, k=2)
    scheduler = torch.optim.lr_scheduler.StepLR(inner, 1, 0.5)
    train_on(optimizer, params, 4)
    scheduler.step()
    assert inner.param_groups[0]["lr"] == 0.05


@BACKENDS
def test_learns(backend: str) -> None:
    """A linear map of rank 3 is found from its outputs."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(16, 3, generator=generator) @ torch.randn(3, 24, generator=generator) / 8
    model = nn.Sequential(nn.Linear(24, 32, bias=False), nn.Linear(32, 16))
    for param in model.parameters():
        param.data = 0.1 * torch.randn(param.shape, generator=generator)
    groups = fastopt.muon_groups(model, lr=0.01, head=())
    optimizer = fastopt.Muon(groups, lr=0.05, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 200)
    losses = []
    with running(backend):
        for _ in range(200):
            x = torch.randn(64, 24, generator=generator)
            optimizer.zero_grad()
            loss = (model(x) - x @ target.T).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.conv = nn.Conv1d(6, 6, 3)
        self.hidden = nn.Linear(6, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.out = nn.Linear(6, 11)
        self.out.weight = self.embed.weight


def test_muon_groups() -> None:
    model = Tied()
    matrices, others = fastopt.muon_groups(model, lr=1e-4, weight_decay=0.3)
    assert {id(p) for p in matrices["params"]} == {id(model.conv.weight), id(model.hidden.weight)}
    rest = [model.embed.weight, *model.norm.parameters(), model.conv.bias, model.hidden.bias, model.out.bias]
    assert {id(p) for p in others["params"]} == {id(p) for p in rest}
    assert (others["lr"], others["weight_decay"], others["use_muon"]) == (1e-4, 0.3, False)
    optimizer = fastopt.Muon([matrices, others], lr=0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 1e-4]
    matrices, _ = fastopt.muon_groups(model, head=["hidden"])
    assert {id(p) for p in matrices["params"]} == {id(model.conv.weight)}
    with pytest.raises(ValueError, match="head: the model has no module 'fc'"):
        fastopt.muon_groups(model, head=["fc"])
    with pytest.raises(TypeError, match="model"):
        fastopt.muon_groups([1])  # type: ignore[arg-type]
