"""Fifty steps compared with torch.optim's: every flag, many shapes, all types."""

import copy
from typing import Any

import pytest
import torch

import fastopt
from optimizer_cases import ALL_CASES, TORCH_CASES, Case, ids
from support import HALF, some_values

STEPS = 50
SHAPES = [(), (1,), (3,), (17, 5), (1, 1), (2, 3, 4, 5), (8, 16, 3, 3), (1000,), (0,), (4, 0, 3), (257, 129)]


def _params(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    # torch's Adafactor divides by the number of elements.
    shapes = [s for s in SHAPES if not (case.row.factored and 0 in s)]
    params = [some_values(shape, dtype, seed=i) for i, shape in enumerate(shapes)]
    params[6] = params[6].to(memory_format=torch.channels_last)
    params[3] = params[3].t().contiguous().t()
    return [p.requires_grad_() for p in params]


def _set_grads(ours: list[torch.Tensor], theirs: list[torch.Tensor], step: int) -> None:
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        # A noisy pull towards zero: the path is curved, so that errors would grow.
        noise = some_values(a.shape, b.dtype, seed=10_000 + 100 * step + i, low=0.01, high=1.0)
        b.grad = (0.5 * b.detach() + noise).to(b.dtype)
        a.grad = b.grad.clone().to(a.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", TORCH_CASES, ids=ids)
def test_follows_torch(case: Case, dtype: torch.dtype, numbers_in: Any) -> None:
    numbers_in(dtype)
    ours, theirs = _params(case, dtype), _params(case, dtype)
    one, other = case.make(ours), case.make_theirs(theirs, foreach=False)
    tolerance = {torch.float32: dict(rtol=2e-4, atol=2e-5), torch.float64: dict(rtol=1e-10, atol=1e-12)}[dtype]
    for step in range(STEPS):
        _set_grads(ours, theirs, step)
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
        assert one.state[a].keys() == other.state[b].keys()
        for key, state in other.state[b].items():
            mine = one.state[a][key]
            torch.testing.assert_close(mine, state, **tolerance)
            assert mine.dim() == 0 or case.row.factored or mine.stride() == a.stride()


@pytest.mark.parametrize("case", [case for case in TORCH_CASES if not case.from_torch], ids=ids)
def test_follows_the_paper_to_1e_12(case: Case, numbers_in: Any) -> None:
    """Over 100 steps: a formula that is nearly the paper's would be within the tolerance of fewer steps."""
    numbers_in(torch.float64)
    ours, theirs = _params(case, torch.float64), _params(case, torch.float64)
    one, other = case.make(ours), case.make_theirs(theirs)
    for step in range(100):
        _set_grads(ours, theirs, step)
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("case", TORCH_CASES, ids=ids)
def test_half_types_follow_a_float64_replay(case: Case, dtype: torch.dtype) -> None:
    """Each float64 step starts from our half values; we must store its result, rounded."""
    params = _params(case, dtype)
    one = case.make(params)
    spacing = {torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]  # half a unit in the last place
    for step in range(STEPS):
        wide = [p.detach().double().requires_grad_() for p in params]
        replay = case.make_theirs(wide, foreach=False)
        if step:
            replay.load_state_dict(copy.deepcopy(one.state_dict()))
        _set_grads(params, wide, step)
        for p, w in zip(params, wide, strict=True):
            w.grad = p.grad.double()
        one.step()
        replay.step()
        for p, w in zip(params, wide, strict=True):
            # float32 arithmetic may cross a rounding boundary that float64 does not: then it is one unit.
            far = (p.double() - w.detach()).abs() > w.detach().abs() * 2.1 * spacing + 1e-6
            assert far.sum() <= (2 if case.row.by_sign else 0)
            near = (p.double() - w.detach()).abs() <= w.detach().abs() * spacing * 1.01 + 1e-7
            assert near.double().mean() > 0.97 or p.numel() < 100


@pytest.mark.parametrize("nesterov", [False, True])
def test_lr_in_momentum_keeps_the_velocity_when_lr_changes(nesterov: bool) -> None:
    """v = mom*v + lr*g; p -= v, or with Nesterov p -= lr*g + mom*v. Compared with the formula in float64."""
    param = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = fastopt.SGD([param], lr=0.1, momentum=0.9, nesterov=nesterov, lr_in_momentum=True)
    p, v = param.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for lr in (0.1, 0.1, 0.01, 0.001):
        optimizer.param_groups[0]["lr"] = lr
        param.grad = 2 * param.detach()
        g = 2 * p
        v = 0.9 * v + lr * g
        p = p - (lr * g + 0.9 * v if nesterov else v)
        optimizer.step()
        torch.testing.assert_close(param.detach(), p, rtol=1e-14, atol=0)


def test_lr_in_momentum_is_momentum_while_lr_is_constant() -> None:
    params = [some_values(100, torch.float64, seed=0).requires_grad_() for _ in range(2)]
    inside = fastopt.SGD([params[0]], lr=0.1, momentum=0.9, lr_in_momentum=True)
    outside = fastopt.SGD([params[1]], lr=0.1, momentum=0.9)
    for step in range(10):
        for p in params:
            p.grad = some_values(100, torch.float64, seed=step)
        inside.step()
        outside.step()
    torch.testing.assert_close(params[0], params[1], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("case", [c for c in ALL_CASES if "l1" in c.extra], ids=ids)
def test_l1_adds_the_sign_of_the_parameter(case: Case) -> None:
    ours = some_values(100, torch.float64, seed=0).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    one = case.make([ours])
    plain = type(one)([theirs], **case.kwargs)
    for step in range(10):
        ours.grad = some_values(100, torch.float64, seed=step)
        theirs.grad = ours.grad + case.extra["l1"] * theirs.detach().sign()
        one.step()
        plain.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("case", [case for case in TORCH_CASES if case.row.complex], ids=ids)
def test_complex_follows_torch(case: Case, numbers_in: Any) -> None:
    numbers_in(torch.float64)

    def make() -> torch.Tensor:
        return torch.view_as_complex(some_values((20, 2), torch.float64, seed=0)).requires_grad_()

    ours, theirs = make(), make()
    one, other = case.make([ours]), case.make_theirs([theirs], foreach=False)
    for step in range(5):
        ours.grad = torch.view_as_complex(some_values((20, 2), torch.float64, seed=step))
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_small_gradients_of_half_parameters_stay_finite(dtype: torch.dtype) -> None:
    """torch's for-loop Adam divides by an eps that underflows in float16, and gets inf or NaN."""
    param = torch.ones(64, dtype=dtype, requires_grad=True)
    optimizer = fastopt.Adam([param], lr=1e-2)
    for _ in range(5):
        param.grad = torch.full((64,), 1e-7, dtype=dtype)
        optimizer.step()
    assert param.isfinite().all()
    assert (param < 1).all()
