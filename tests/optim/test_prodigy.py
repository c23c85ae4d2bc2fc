"""The traps of Prodigy, each of which would be a silently wrong optimizer; and sums over all parameters."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from support import DTYPES, ISAS, assert_same_bits, assert_same_step, running, some_values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
NUMBERS = ("d", "d_max", "d_numerator", "k")


def _param(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def _step(optimizer: torch.optim.Optimizer, *pairs: tuple[Tensor, list[float]]) -> list[float]:
    """Returns by how much the first elements of the parameters have gone down."""
    before = [param[0].item() for param, _ in pairs]
    for param, grad in pairs:
        param.grad = torch.tensor(grad, dtype=param.dtype)
    optimizer.step()
    return [old - param[0].item() for old, (param, _) in zip(before, pairs, strict=True)]


def _numbers(optimizer: torch.optim.Optimizer, g: int = 0) -> dict[str, Any]:
    return {key: optimizer.param_groups[g][key] for key in NUMBERS}


@BACKENDS
def test_trap_prodigy_moves_by_the_old_d_and_bounds_by_the_new(backend: str) -> None:
    """In the second step d grows from 0.1 to 0.3. The step and the averages are made with 0.1; eps, large here, with
    0.3. Every other choice is off by a factor that is seen."""
    with running(backend):
        p = _param(0.0)
        optimizer = fastopt.Prodigy([p], lr=0.5, betas=(0.5, 0.5), beta3=0.0, eps=3.0, d0=0.1)
        _step(optimizer, (p, [1.0]))
        first = 0.1 * 0.5 * (0.5 * 0.1) / (math.sqrt(0.5 * 0.1**2) + 0.1 * 3)
        assert p.item() == pytest.approx(-first, rel=1e-12)
        p0 = optimizer.state[p]["p0"]
        p0.fill_(0.3 - first)  # p0 - p is 0.3, and so is the estimate <g, p0 - p> / |g|
        assert _step(optimizer, (p, [1.0])) == [
            pytest.approx(0.1 * 0.5 * (0.75 * 0.1) / (math.sqrt(0.75 * 0.1**2) + 0.3 * 3), rel=1e-12)
        ]
        assert optimizer.param_groups[0]["d"] == pytest.approx(0.3, rel=1e-12)
        assert optimizer.state[p]["s"].item() == pytest.approx(0.1 * 0.5, rel=1e-12)


@BACKENDS
def test_trap_prodigy_sums_over_all_groups(backend: str) -> None:
    """One d for all, from both sums over all parameters, in whatever groups they are."""
    with running(backend):
        p, q = _param(0.0), _param(0.0, 0.0)
        options = dict(beta3=0.0, d0=0.1)
        apart = fastopt.Prodigy([{"params": [p]}, {"params": [q], "weight_decay": 0.0}], **options)
        _step(apart, (p, [2.0]), (q, [1.0, -1.0]))
        moved = (-2.0 * p.item() - q[0].item() + q[1].item()) / 5.0
        _step(apart, (p, [2.0]), (q, [1.0, -2.0]))
        expected = (2.0 * (0 + 0.1 * _UNIT) + 1.0 * 0.1 * _UNIT + 2.0 * 0.1 * _UNIT) / 5.0
        assert moved == pytest.approx(4 * 0.1 * _UNIT / 5.0, rel=1e-6)
        assert apart.param_groups[0]["d"] == apart.param_groups[1]["d"] == pytest.approx(expected, rel=1e-6)
        assert expected > 0.1


_UNIT = 0.1 / math.sqrt(0.001)  # the first step of Adam without bias correction, at the usual betas


@BACKENDS
def test_trap_prodigy_weighs_the_sums_by_d_over_d0(backend: str) -> None:
    """So that terms of a small d count less: numerator and s have the weight of their step."""
    with running(backend):
        p = _param(1.0)
        optimizer = fastopt.Prodigy([p], lr=0.5, beta3=0.5, d0=0.1)
        for group in optimizer.param_groups:
            group.update(d=0.4, d_max=0.4)
        _step(optimizer, (p, [2.0]))
        assert optimizer.state[p]["s"].item() == pytest.approx(0.4 / 0.1 * 0.4 * 0.5 * 2.0, rel=1e-12)
        gone = 1.0 - p.item()
        _step(optimizer, (p, [3.0]))
        assert optimizer.param_groups[0]["d_numerator"] == pytest.approx(4 * 0.4 * 0.5 * 3.0 * gone, rel=1e-12)
        assert optimizer.state[p]["s"].item() == pytest.approx(4 * 0.4 * 0.5 * (0.5 * 2.0 + 3.0), rel=1e-12)


def test_trap_prodigy_safeguard_leaves_lr_out_of_s_alone() -> None:
    p, q = _param(1.0), _param(1.0)
    plain, safe = (fastopt.Prodigy([x], lr=0.5, d0=0.1, safeguard_warmup=on) for x, on in ((p, False), (q, True)))
    for optimizer, x in ((plain, p), (safe, q)):
        _step(optimizer, (x, [1.0]))
        _step(optimizer, (x, [1.0]))
    assert safe.state[q]["s"].item() == pytest.approx(2 * plain.state[p]["s"].item(), rel=1e-12)
    assert safe.param_groups[0]["d_numerator"] == plain.param_groups[0]["d_numerator"]


@pytest.mark.parametrize("growth_rate", [1.5, math.inf])
def test_trap_prodigy_jumps_from_d0_and_then_grows_by_the_rate(growth_rate: float) -> None:
    """Away from d0 the estimate is only a limit; a smaller estimate does not lower d."""
    p = _param(0.0)
    optimizer = fastopt.Prodigy([p], beta3=0.0, d0=0.1, growth_rate=growth_rate)
    _step(optimizer, (p, [1.0]))
    found = []
    for distance in (0.4, 1000.0, 0.2):
        optimizer.state[p]["p0"].copy_(p.detach() + distance)
        _step(optimizer, (p, [1.0]))
        found.append(optimizer.param_groups[0]["d"])
    expected = [0.4, 0.6, 0.9] if growth_rate == 1.5 else [0.4, 1000.0, 1000.0]
    assert found == pytest.approx(expected, rel=1e-12)
    assert optimizer.param_groups[0]["d_max"] == pytest.approx(1000.0, rel=1e-12)


@BACKENDS
def test_trap_prodigy_stands_still_until_there_is_a_gradient(backend: str) -> None:
    """The denominator is 0 then. The decay waits too, and the step does not count."""
    with running(backend):
        p = _param(2.0)
        optimizer = fastopt.Prodigy([p], weight_decay=0.5, use_bias_correction=True, maximize=True)
        before = _numbers(optimizer)
        for _ in range(3):
            assert _step(optimizer, (p, [0.0])) == [0.0]
        assert _numbers(optimizer) == before
        assert _step(optimizer, (p, [1.0]))[0] != 0
        assert optimizer.param_groups[0]["k"] == 1


@BACKENDS
def test_trap_prodigy_group_without_rate_stands_still_outside_the_sums(backend: str) -> None:
    """Its states and its parameter keep their bits, even with a NaN for a gradient."""
    with running(backend):
        p, q, alone = _param(1.0), _param(2.0), _param(1.0)
        optimizer = fastopt.Prodigy([{"params": [p]}, {"params": [q], "weight_decay": 0.1}], d0=0.1)
        single = fastopt.Prodigy([alone], d0=0.1)
        optimizer.param_groups[1]["lr"] = 0.0
        for t in range(3):
            _step(optimizer, (p, [1.0 + t]), (q, [math.nan]))
            _step(single, (alone, [1.0 + t]))
        assert _numbers(optimizer) == _numbers(single)
        assert_same_bits(p, alone)
        assert q.item() == 2.0
        assert [optimizer.state[q][key].item() for key in ("exp_avg", "exp_avg_sq", "s", "p0")] == [0, 0, 0, 2]
        optimizer.param_groups[1]["lr"] = 1.0
        assert _step(optimizer, (p, [1.0]), (q, [1.0]))[1] > 0


def test_trap_prodigy_a_nan_does_not_become_d() -> None:
    p, q = _param(1.0), _param(1.0)
    optimizer = fastopt.Prodigy([p, q], d0=0.1)
    _step(optimizer, (p, [1.0]), (q, [1.0]))
    _step(optimizer, (p, [math.nan]), (q, [1.0]))
    assert optimizer.param_groups[0]["d"] == optimizer.param_groups[0]["d_max"] == 0.1
    assert p.isnan().all()
    assert q.isfinite().all()


@pytest.mark.parametrize("fused", [False, True])
def test_trap_prodigy_skipped_step_leaves_d(fused: bool) -> None:
    """GradScaler skips the step after an inf, whether it skips by itself or lets the step do so."""
    dtype = torch.float16 if fused else torch.float32
    p = torch.ones(3, dtype=dtype, requires_grad=True)
    optimizer = fastopt.Prodigy([p], d0=0.1)
    assert bool(optimizer._step_supports_amp_scaling) is fused
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for grad in (4.0, math.inf, 8.0, math.inf):
        p.grad = torch.full_like(p, grad)
        scaler.scale(torch.zeros(()))
        before, state = _numbers(optimizer), copy.deepcopy(optimizer.state_dict()["state"])
        scaler.step(optimizer)
        scaler.update()
        if grad == math.inf:
            assert _numbers(optimizer) == before
            for key, value in optimizer.state[p].items():
                assert_same_bits(value, state[0][key])
        else:
            assert optimizer.param_groups[0]["k"] == before["k"] + 1


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16, "int8"], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_trap_prodigy_s_and_p0_are_not_narrowed(dtype: torch.dtype, state_dtype: Any) -> None:
    """A step changes s by less than a rounding of bfloat16, and d is a ratio of small differences from p0."""
    p = some_values(8192, dtype, seed=0).requires_grad_()
    first = p.detach().clone()
    optimizer = fastopt.Prodigy([p], d0=1e-2, state_dtype=state_dtype)
    for t in range(3):
        p.grad = some_values(8192, dtype, seed=1 + t)
        optimizer.step()
    state = optimizer.state[p]
    assert state["s"].dtype == torch.float32
    assert_same_bits(state["p0"].to(dtype), first)
    assert state["p0"].dtype == (dtype if state_dtype is None else torch.float32)
    assert not {"s_scale", "p0_scale"} & state.keys()


def test_trap_prodigy_float16_has_averages() -> None:
    """With d0 = 1e-6, d^2 g^2 is 1e-15: a float16 average would be 0, and the step would be divided by d eps alone."""
    p = torch.ones(70, dtype=torch.float16, requires_grad=True)
    optimizer = fastopt.Prodigy([p])
    for _ in range(3):
        p.grad = torch.full_like(p, 0.5)
        optimizer.step()
    assert (p - 1).abs().max() < 1e-3
    assert (optimizer.state[p]["exp_avg_sq"] > 0).all()


@pytest.mark.parametrize("master", ["float32", "split"])
def test_p0_has_all_bits_of_a_master(master: str) -> None:
    """A parameter that trained with another optimizer's master begins where the master is."""
    p = some_values(70, torch.bfloat16, seed=0).requires_grad_()
    optimizer = fastopt.Prodigy([p], d0=1e-2, master=master)
    for t in range(3):
        p.grad = some_values(70, torch.bfloat16, seed=1 + t)
        optimizer.step()
    state = optimizer.state[p]
    exact = fastopt.optim._master.exact_value(p, state).clone()
    for key in ("exp_avg", "exp_avg_sq", "s", "p0", "step"):
        del state[key]
    optimizer.step()
    assert_same_bits(optimizer.state[p]["p0"], exact)
    assert not torch.equal(exact, exact.bfloat16().float())


def test_late_parameters_and_groups_join_in() -> None:
    """With the d of the others, and their own value as p0."""
    p, q, r = _param(1.0), _param(1.0), _param(3.0)
    optimizer = fastopt.Prodigy([p, q], d0=0.01)
    for _ in range(20):
        p.grad = p.detach().clone()
        optimizer.step()
    d = optimizer.param_groups[0]["d"]
    assert d > 0.01
    optimizer.add_param_group({"params": [r]})
    q.detach().fill_(5.0)
    rate = [optimizer._scalars({**group, "d": d}, 1)["step_size"] for group in optimizer.param_groups]
    assert rate == [d, d]
    moved = _step(optimizer, (q, [1.0]), (r, [1.0]))
    assert moved == pytest.approx([d * _UNIT, d * _UNIT], rel=1e-6)
    assert optimizer.state[q]["p0"].item() == 5.0
    assert _numbers(optimizer, 0) == _numbers(optimizer, 1)
    assert optimizer.param_groups[1]["k"] == 21


@pytest.mark.parametrize(
    "option", [{"betas": (0.5, 0.9)}, {"beta3": 0.5}, {"use_bias_correction": True}, {"d0": 1.0}, {"d_coef": 2.0}]
)
def test_groups_share_what_makes_the_sums(option: dict[str, Any]) -> None:
    p, q = _param(1.0), _param(1.0)
    optimizer = fastopt.Prodigy([{"params": [p]}, {"params": [q], **option}])
    with pytest.raises(ValueError, match=f"{next(iter(option))}: the groups need the same"):
        _step(optimizer, (p, [1.0]), (q, [1.0]))
    assert (p.item(), q.item()) == (1.0, 1.0)
    assert not optimizer.state
    assert optimizer.param_groups[0]["k"] == 0


@pytest.mark.parametrize("state_dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_equals_reference_where_sums_are_cut(isa: str, dtype: torch.dtype, state_dtype: torch.dtype | None) -> None:
    """Blocks have 128 elements, chunks 4096, tiles 16384. Some parameters take the slow path, in between."""

    def train(backend: str, threads: int) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        sizes = (0, 1, 31, 33, 127, 129, 4095, 4096, 4097, 16385, 140_000)
        params = [some_values(n, dtype, seed=n).requires_grad_() for n in sizes]
        params[3:3] = [some_values((6, 10), dtype, seed=5)[::2, ::2].requires_grad_()]
        groups = [{"params": params[:5], "lr": 0.5}, {"params": params[5:]}]
        with running(backend, isa, threads):
            optimizer = fastopt.Prodigy(groups, d0=1e-2, state_dtype=state_dtype, max_grad_value=1.5, l1=1e-3)
            for step in range(3):
                for param in params:
                    param.grad = some_values(param.shape, dtype, seed=param.numel()) * (3 + step)
                optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.zeros(())
                optimizer.step()
        return optimizer, params

    expected = train("reference", 1)
    for threads in (1, 3):
        found = train("native", threads)
        assert_same_step(*found, *expected)
        assert _numbers(found[0]) == _numbers(expected[0])
    assert _numbers(expected[0])["d"] > 1e-2


def test_sums_over_many_parameters_have_one_shape() -> None:
    """More than 4096 tensors, in groups: their sums are cut too."""

    def train(backend: str, threads: int) -> dict[str, Any]:
        params = [some_values(1, torch.float32, seed=n % 97).requires_grad_() for n in range(4200)]
        with running(backend, "baseline", threads):
            optimizer = fastopt.Prodigy([{"params": params[:100]}, {"params": params[100:]}], d0=1e-2)
            for _ in range(2):
                for n, param in enumerate(params):
                    param.grad = torch.full_like(param, math.sin(n))
                optimizer.step()
        return _numbers(optimizer)

    assert train("reference", 1) == train("native", 1) == train("native", 3)
