"""Gradient clipping inside a step equals the functions of test_clip.py, called before the step."""

import math

import pytest
import torch

import fastopt
from optimizer_cases import PLAIN_CASES, Case, ids
from support import (
    assert_same_bits,
    assert_same_states,
    assert_same_step,
    params_with_grads,
    running,
    some_values,
    states_of,
)

CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


@BACKENDS
@CASES
def test_a_step_that_clips_is_clipping_and_a_step(case: Case, backend: str) -> None:
    """The two are equal to the bit, as the norm is not rounded before it is used."""
    for options, clip in (
        ({"max_grad_norm": 0.5}, lambda p: fastopt.clip_grad_norm_(p, 0.5)),
        ({"max_grad_norm": 1e6}, lambda p: None),
        ({"max_grad_norm": math.inf}, lambda p: None),
        ({"max_grad_value": 0.6}, lambda p: fastopt.clip_grad_value_(p, 0.6)),
        (
            {"max_grad_norm": 2.0, "max_grad_value": 0.01},
            lambda p: (fastopt.clip_grad_norm_(p, 2.0), fastopt.clip_grad_value_(p, 0.01)),
        ),
    ):
        ours, plain = params_with_grads(), params_with_grads()
        one, other = case.make(ours, **options), case.make(plain)
        with running(backend):
            for step in range(3):
                for i, (a, b) in enumerate(zip(ours, plain, strict=True)):
                    a.grad = some_values(a.shape, a.dtype, 100 * step + i)
                    b.grad = a.grad.clone()
                kept = [a.grad.clone() for a in ours]
                expected_norm = fastopt.get_total_norm([p.grad for p in plain])
                clip(plain)
                one.step()
                other.step()
                for a, grad in zip(ours, kept, strict=True):
                    assert_same_bits(a.grad, grad, "the gradient itself is left alone")
                if "max_grad_norm" in options:
                    assert_same_bits(one.grad_norm, expected_norm)
        assert_same_step(one, ours, other, plain)


@BACKENDS
def test_clipping_in_a_scaled_step(backend: str) -> None:
    """The norm is that of the unscaled gradients. They are written back unscaled and unclipped."""
    ours, plain = params_with_grads(), params_with_grads()
    one = fastopt.AdamW(ours, max_grad_norm=0.5)
    other = fastopt.AdamW(plain)
    for param in ours:
        param.grad *= 64
    one.grad_scale, one.found_inf = torch.tensor(64.0), torch.tensor(0.0)
    with running(backend):
        one.step()
        norm = fastopt.clip_grad_norm_(plain, 0.5)
        other.step()
    assert_same_bits(one.grad_norm, norm)
    assert_same_step(one, ours, other, plain)
    for i, param in enumerate(ours):
        assert_same_bits(param.grad, some_values(param.shape, param.dtype, seed=i))


@BACKENDS
def test_groups_that_clip_share_one_norm(backend: str) -> None:
    """Groups without max_grad_norm do not count in the norm; the others may have different limits."""
    params = [torch.zeros(4, requires_grad=True) for _ in range(3)]
    for i, param in enumerate(params):
        param.grad = torch.full((4,), 10.0 ** (i + 1))
    optimizer = fastopt.SGD(
        [
            {"params": [params[0]], "max_grad_norm": 2.0},
            {"params": [params[1]], "max_grad_norm": 4.0},
            {"params": [params[2]]},
        ],
        lr=1.0,
    )
    with running(backend):
        optimizer.step()
    norm = math.sqrt(4 * 10.0**2 + 4 * 100.0**2)
    torch.testing.assert_close(params[0].detach(), torch.full((4,), -10.0 * 2 / norm))
    torch.testing.assert_close(params[1].detach(), torch.full((4,), -100.0 * 4 / norm))
    torch.testing.assert_close(params[2].detach(), torch.full((4,), -1000.0))
    torch.testing.assert_close(optimizer.grad_norm, torch.tensor(norm))


def test_the_order_of_a_sum_is_that_of_the_parameters() -> None:
    """Parameters are added in their own order, not in the order of their first gradients. Float64 would show it."""

    def norms() -> list[float]:
        params = [torch.zeros(3 + i % 5, dtype=torch.float64, requires_grad=True) for i in range(80)]
        optimizer = fastopt.Adam([{"params": params[:50]}, {"params": params[50:]}], max_grad_norm=1.0)
        seen = []
        for step in range(8):
            for i, param in enumerate(params):
                if i % 8 <= step:
                    param.grad = some_values(param.shape, torch.float64, seed=100 * step + i)
            optimizer.step()
            seen.append(optimizer._grad_norm)
        return seen

    with running("reference"):
        expected = norms()
    assert norms() == expected


def test_clipping_options_can_be_edited() -> None:
    param = torch.zeros(4, requires_grad=True)
    param.grad = torch.full((4,), 2.0)
    optimizer = fastopt.SGD([param], lr=1.0)
    assert optimizer.grad_norm is None
    optimizer.param_groups[0]["max_grad_norm"] = 1.0
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((4,), -0.5))


@pytest.mark.parametrize("option", ["max_grad_norm", "max_grad_value", "l1"])
@CASES
def test_bad_clipping_options(case: Case, option: str) -> None:
    for value in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"Invalid {option} value: {value}"):
            case.make([torch.ones(3, requires_grad=True)], **{option: value})


def test_edited_options_are_checked_at_the_step() -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = fastopt.SGD([param], lr=1.0, max_grad_norm=1.0)
    for option in ("max_grad_norm", "max_grad_value", "l1"):
        before = optimizer.param_groups[0][option]
        optimizer.param_groups[0][option] = -1.0
        with pytest.raises(ValueError, match=f"Invalid {option} value: -1.0"):
            optimizer.step()
        optimizer.param_groups[0][option] = before
    assert (param == 1).all()


def test_the_norm_is_that_of_the_last_step() -> None:
    param = torch.ones(3, dtype=torch.float64, requires_grad=True)
    param.grad = torch.ones(3, dtype=torch.float64)
    optimizer = fastopt.SGD([param], lr=1.0, max_grad_norm=1.0)
    optimizer.step()
    torch.testing.assert_close(optimizer.grad_norm, torch.tensor(3.0, dtype=torch.float64).sqrt())
    optimizer.param_groups[0]["max_grad_norm"] = None
    optimizer.step()
    assert optimizer.grad_norm is None


def test_the_norm_is_seen_through_a_wrapper() -> None:
    """Lightning's wrappers are subclasses of what they wrap, and pass on attributes that they do not have."""

    class Wrapper:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.wrapped = optimizer
            self.__class__ = type("Wrapped", (Wrapper, type(optimizer)), {})

        def __getattr__(self, name: str) -> object:
            return getattr(self.wrapped, name)

    param = torch.ones(4, requires_grad=True)
    param.grad = torch.ones(4)
    optimizer = fastopt.SGD([param], lr=1.0, max_grad_norm=1.0)
    wrapper = Wrapper(optimizer)
    assert wrapper.grad_norm is None
    optimizer.step()
    assert wrapper.grad_norm == 2


def test_an_error_after_the_norm_leaves_everything() -> None:
    """Overlapping memory is found before anything is measured or written."""
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizer = fastopt.Adam(params, max_grad_norm=1.0)
    params[0].grad, params[1].grad = torch.ones(3), params[0].detach()
    before = states_of(optimizer)
    with pytest.raises(RuntimeError, match="shares memory"):
        optimizer.step()
    assert_same_states(optimizer, before)
    assert optimizer.grad_norm is None
    assert all((p == 1).all() for p in params)
