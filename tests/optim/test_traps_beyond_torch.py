"""The traps of optimizers that torch does not have; each would be a silently wrong optimizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import fastopt


def _param(value: float = 0.0) -> torch.Tensor:
    return torch.full((1,), value, dtype=torch.float64, requires_grad=True)


def _step(optimizer: torch.optim.Optimizer, param: torch.Tensor, grad: float) -> float:
    """Returns by how much the parameter has gone down."""
    before = param.item()
    param.grad = torch.full_like(param, grad)
    optimizer.step()
    return before - param.item()


def test_trap_ademamix_does_not_correct_the_slow_average() -> None:
    """With a constant gradient the corrected averages are 1 from the first step on; the slow one grows."""
    param = _param()
    optimizer = fastopt.AdEMAMix([param], lr=1.0, eps=0.0)
    for t in (1, 2, 3):
        assert _step(optimizer, param, 1.0) == pytest.approx(1 + 5.0 * (1 - 0.9999**t), rel=1e-12)


@pytest.mark.parametrize("t", [1, 50, 100, 1000])
def test_trap_ademamix_schedules(t: int) -> None:
    """alpha grows linearly, beta3 so that its half-life does; both stay where they have arrived."""
    options = dict(lr=0.1, betas=(0.9, 0.999, 0.9999), alpha=5.0, t_alpha=100, t_beta3=100)
    optimizer = fastopt.AdEMAMix([_param()], **options)
    scalars = optimizer._scalars(optimizer.param_groups[0], t)
    s = min(t / 100, 1.0)
    half_life = (1 - s) * math.log(0.5) / math.log(0.9) + s * math.log(0.5) / math.log(0.9999)
    assert scalars["slow_step"] == pytest.approx(0.1 * 5.0 * s, rel=1e-12)
    assert scalars["one_minus_beta3"] == pytest.approx(1 - 0.5 ** (1 / half_life), rel=1e-9)


def test_trap_ademamix_beta3_below_beta1_stays() -> None:
    """The schedule never exceeds beta3. Beyond its end, its formula would go through a pole here."""
    optimizer = fastopt.AdEMAMix([_param()], betas=(0.9, 0.999, 0.5), t_beta3=10)
    rates = [optimizer._scalars(optimizer.param_groups[0], t)["one_minus_beta3"] for t in range(1, 40)]
    assert rates == [0.5] * 39


@pytest.mark.parametrize("clip_exp", [0.25, 0.0, None])
def test_trap_adopt_first_step_moves_only_the_average_square(clip_exp: float | None) -> None:
    """Not even a decoupled decay moves the parameter; and a NaN, which would go through 0 * n, stays out of exp_avg."""
    for grad in (3.0, math.nan):
        param = _param(2.0)
        optimizer = fastopt.ADOPT([param], lr=0.1, weight_decay=0.5, decouple=True, eps=0.0, clip_exp=clip_exp)
        assert _step(optimizer, param, grad) == 0
        assert optimizer.state[param]["exp_avg"].item() == 0
        assert optimizer.state[param]["exp_avg_sq"].item() == pytest.approx(grad**2, nan_ok=True)
    param = _param(2.0)
    assert _step(fastopt.ADOPT([param], weight_decay=0.5), param, 3.0) == 0


def test_trap_adopt_divides_by_the_square_before_the_gradient() -> None:
    """And eps bounds the root, rather than being added to it."""
    param = _param()
    optimizer = fastopt.ADOPT([param], lr=1.0, betas=(0.0, 0.5), clip_exp=None, eps=1.0)
    _step(optimizer, param, 2.0)
    assert _step(optimizer, param, 10.0) == pytest.approx(10 / 2, rel=1e-12)
    assert _step(optimizer, param, 1.0) == pytest.approx(1 / math.sqrt(0.5 * 4 + 0.5 * 100), rel=1e-12)
    param = _param()
    small = fastopt.ADOPT([param], lr=1.0, betas=(0.0, 0.5), eps=1e-6)
    _step(small, param, 1e-9)
    assert _step(small, param, 1e-9) == pytest.approx(1e-3, rel=1e-12)


def test_trap_adopt_clamps_by_the_steps_before() -> None:
    """(t - 1)^(1/4): at most 1 in the second step, which is the first that moves the parameter."""
    param = _param()
    optimizer = fastopt.ADOPT([param], lr=1.0, betas=(0.0, 0.9999))
    moved = [_step(optimizer, param, 10.0**t) for t in range(5)]
    assert moved == pytest.approx([0.0, 1.0, 2**0.25, 3**0.25, 4**0.25], rel=1e-12)


def test_trap_adan_first_difference_is_0() -> None:
    """Otherwise the first step would take the gradient for a change of the gradient."""
    param = _param()
    optimizer = fastopt.Adan([param], lr=1.0, eps=0.0)
    assert _step(optimizer, param, 3.0) == pytest.approx(1.0, rel=1e-12)
    assert optimizer.state[param]["exp_avg_diff"].item() == 0
    assert optimizer.state[param]["exp_avg_sq"].item() == pytest.approx(0.01 * 9, rel=1e-12)


@pytest.mark.parametrize("maximize", [False, True])
def test_trap_adan_keeps_a_copy_of_the_gradient(maximize: bool) -> None:
    """Training writes to the same gradients again, and an alias would make every difference 0."""
    param = _param()
    optimizer = fastopt.Adan([param], lr=1.0, maximize=maximize)
    param.grad = torch.full_like(param, 2.0)
    optimizer.step()
    param.grad.add_(3.0)
    optimizer.step()
    assert param.grad.item() == 5
    sign = -1 if maximize else 1
    assert optimizer.state[param]["exp_avg_diff"].item() == pytest.approx(sign * 0.08 * 3, rel=1e-12)
    assert optimizer.state[param]["neg_pre_grad"].item() == -5 * sign


@pytest.mark.parametrize("no_prox", [False, True])
def test_trap_adan_decays_after_the_step(no_prox: bool) -> None:
    """It divides what the step has reached; no_prox decays first."""
    param = _param(2.0)
    optimizer = fastopt.Adan([param], lr=0.1, eps=0.0, weight_decay=0.5, no_prox=no_prox)
    _step(optimizer, param, 3.0)
    after = 2.0 * (1 - 0.1 * 0.5) - 0.1 if no_prox else (2.0 - 0.1) / (1 + 0.1 * 0.5)
    assert param.item() == pytest.approx(after, rel=1e-12)


def test_trap_adan_corrects_each_average_by_its_own_beta() -> None:
    """The second step, from its formula: the difference counts beta2 times, in the root too."""
    param = _param()
    optimizer = fastopt.Adan([param], lr=1.0, eps=0.0)
    _step(optimizer, param, 1.0)
    m, q, n = 0.98 * 0.02 + 0.02 * 2, 0.08, 0.99 * 0.01 + 0.01 * (2 + 0.92) ** 2
    direction = m / (1 - 0.98**2) + 0.92 * q / (1 - 0.92**2)
    assert _step(optimizer, param, 2.0) == pytest.approx(direction / math.sqrt(n / (1 - 0.99**2)), rel=1e-12)


def _lars(param: torch.Tensor, grad: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Returns how far one step of LARS goes down."""
    own = param.clone().requires_grad_()
    own.grad = grad.clone()
    fastopt.LARS([own], **{"lr": 1.0, "momentum": 0.0, "eps": 0.0, "trust_coefficient": 0.5, **kwargs}).step()
    return param - own.detach()


_P = torch.tensor([3.0, 4.0], dtype=torch.float64)  # its norm is 5
_G = torch.tensor([-0.6, -0.8], dtype=torch.float64)  # against the decay; its norm is 1


def test_trap_lars_adds_norms() -> None:
    """The denominator is the gradient's norm plus the decay's, rather than LAMB's norm of their sum."""
    rate = 0.5 * 5 / (1 + 0.1 * 5)
    torch.testing.assert_close(_lars(_P, _G, weight_decay=0.1), rate * (_G + 0.1 * _P), rtol=1e-12, atol=0)
    rate = 0.5 * 5 / (1 + 0.1 * 5 + 2)
    torch.testing.assert_close(_lars(_P, _G, weight_decay=0.1, eps=2.0), rate * (_G + 0.1 * _P), rtol=1e-12, atol=0)


def test_trap_lars_without_decay_is_sgd_unless_asked_for() -> None:
    assert torch.equal(_lars(_P, _G, weight_decay=0.0), _P - (_P - _G))
    adapted = _lars(_P, _G, weight_decay=0.0, always_adapt=True)
    torch.testing.assert_close(adapted, 0.5 * 5 * _G, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_trap_lars_norms_of_0_give_the_rate_1(weight_decay: float) -> None:
    """A rate of 0 would keep a parameter of zeros there; and a gradient of zeros leaves the decay, as SGD does."""
    options = {"weight_decay": weight_decay, "always_adapt": True}
    assert torch.equal(_lars(torch.zeros_like(_P), _G, **options), _G)
    torch.testing.assert_close(_lars(_P, torch.zeros_like(_G), **options), weight_decay * _P, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_trap_lars_does_not_depend_on_the_size_of_the_gradient(size: float) -> None:
    """bitsandbytes' only shortens long updates."""
    moved = _lars(_P, size * _G, weight_decay=0.0, always_adapt=True)
    torch.testing.assert_close(moved, 0.5 * 5 * _G, rtol=1e-12, atol=0)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_trap_lars_keeps_the_local_rate_in_the_velocity_and_lr_outside(nesterov: bool, inside: bool) -> None:
    """A rate of 0 stops it, but for the paper's form."""
    param = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    optimizer = fastopt.LARS([param], lr=0.1, dampening=0.0, nesterov=nesterov, lr_in_momentum=inside, eps=0.0)
    param.grad = _G.clone()
    optimizer.step()
    velocity = optimizer.state[param]["momentum_buffer"].clone()
    expected = 1e-3 * 5 / (1 + 5e-4 * 5) * (_G + 5e-4 * _P) * (0.1 if inside else 1)
    torch.testing.assert_close(velocity, expected, rtol=1e-12, atol=0)
    optimizer.param_groups[0]["lr"] = 0.0
    before = param.detach().clone()
    optimizer.step()
    moved = before - param.detach()
    expected = velocity * (0.9**2 if nesterov else 0.9) if inside else torch.zeros_like(velocity)
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=0)


def test_trap_lars_does_not_dampen_the_first_velocity() -> None:
    moved = _lars(_P, _G, momentum=0.9, dampening=0.5, weight_decay=0.0)
    torch.testing.assert_close(moved, _G, rtol=1e-12, atol=0)


def test_trap_lars_one_nan_does_not_spread() -> None:
    """A norm that is NaN is not above 0, so that the rate is 1."""
    moved = _lars(_P, torch.tensor([math.nan, 0.5], dtype=torch.float64), weight_decay=0.1)
    assert moved.isnan().tolist() == [True, False]
    assert moved[1].item() == pytest.approx(0.5 + 0.4, rel=1e-12)


def test_trap_stable_adamw_debiases_betas() -> None:
    """In place of corrections: the averages begin as the gradient and its square."""
    param = _param()
    optimizer = fastopt.StableAdamW([param], lr=1.0, eps=0.0, weight_decay=0.0)
    state = optimizer.state[param]
    assert _step(optimizer, param, 3.0) == pytest.approx(1.0, rel=1e-12)
    assert (state["exp_avg"].item(), state["exp_avg_sq"].item()) == (3.0, 9.0)
    _step(optimizer, param, 1.0)
    beta1, beta2 = 0.9 * 0.1 / (1 - 0.9**2), 0.99 * 0.01 / (1 - 0.99**2)
    assert state["exp_avg"].item() == pytest.approx(beta1 * 3 + (1 - beta1), rel=1e-12)
    assert state["exp_avg_sq"].item() == pytest.approx(beta2 * 9 + (1 - beta2), rel=1e-12)


def test_trap_stable_adamw_measures_the_gradient_and_the_decay_shrinks_too() -> None:
    """The root mean square is that of g / sqrt(v), which jumps, not of m / sqrt(v). The decay goes by the same rate."""
    param = _param(2.0)
    optimizer = fastopt.StableAdamW([param], lr=0.1, betas=(0.9, 0.99), eps=0.0, weight_decay=0.5)
    for _ in range(50):
        _step(optimizer, param, 1.0)
    beta1, beta2 = (beta * (1 - beta**50) / (1 - beta**51) for beta in (0.9, 0.99))
    m, v = beta1 + (1 - beta1) * 100, beta2 + (1 - beta2) * 100**2
    before, rate = param.item(), 0.1 / (100 / math.sqrt(v))
    assert rate < 0.02
    assert _step(optimizer, param, 100.0) == pytest.approx(rate * (m / math.sqrt(v) + 0.5 * before), rel=1e-9)


def test_trap_stable_adamw_never_raises_the_rate() -> None:
    """A root mean square below 1 leaves it as it is."""
    param = _param()
    optimizer = fastopt.StableAdamW([param], lr=0.1, eps=0.0, weight_decay=0.0, betas=(0.0, 0.99))
    _step(optimizer, param, 100.0)
    v = 0.99 * 0.01 / (1 - 0.99**2) * 100**2 + (1 - 0.99) / (1 - 0.99**2)
    assert _step(optimizer, param, 1.0) == pytest.approx(0.1 / math.sqrt(v), rel=1e-12)


def test_trap_stable_adamw_eps_bounds_the_measure_and_is_added_in_the_update() -> None:
    param = _param()
    optimizer = fastopt.StableAdamW([param], lr=1.0, eps=0.5, weight_decay=0.0, betas=(0.0, 0.0))
    assert _step(optimizer, param, 1.0) == pytest.approx(1 / 1.5, rel=1e-12)  # the measure is 1, not 1 / 1.5
    params = [torch.zeros(2, dtype=torch.float64, requires_grad=True)]
    optimizer = fastopt.StableAdamW(params, lr=1.0, eps=1e-3, weight_decay=0.0)
    for grad in (*[[1e-9, 1e-9]] * 3, [1e-9, 1.0]):
        params[0].grad = torch.tensor(grad, dtype=torch.float64)
        before = params[0].detach().clone()
        optimizer.step()
    weight1, weight2 = 0.1 / (1 - 0.9**4), 0.01 / (1 - 0.99**4)  # of the last gradient in the averages
    rms = math.sqrt((1 / weight2 + (1e-9 / 1e-3) ** 2) / 2)
    moved = weight1 / (math.sqrt(weight2) + 1e-3) / rms
    assert (before - params[0].detach())[1].item() == pytest.approx(moved, rel=1e-6)


def test_trap_stable_adamw_clips_by_tensor() -> None:
    """A jump in one tensor leaves the others alone."""
    calm, wild = _param(), _param()
    optimizer = fastopt.StableAdamW([calm, wild], lr=0.1, eps=0.0, weight_decay=0.0, betas=(0.0, 0.99))
    for grads in ((1.0, 1.0), (1.0, 1000.0)):
        for param, grad in zip((calm, wild), grads, strict=True):
            param.grad = torch.full_like(param, grad)
        before = calm.item(), wild.item()
        optimizer.step()
    assert before[0] - calm.item() == pytest.approx(0.1, rel=1e-12)
    v = (0.99 * 0.01 + 0.01 * 1000**2) / (1 - 0.99**2)
    assert before[1] - wild.item() == pytest.approx(0.1, rel=1e-12)  # g / sqrt(v) over itself
    assert optimizer.state[wild]["exp_avg_sq"].item() == pytest.approx(v, rel=1e-12)
