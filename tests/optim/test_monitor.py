"""``fastopt.monitor``: statistics equal the NumPy reference's to the bit, and torch's norms; training is the same
with and without them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from monitor_cases import SHAPES, Watched, some_params, step_on
from optimizer_cases import PLAIN_CASES, Case, ids
from precision_cases import FLOATS, OPTIONS, half_params, joined, run_kinds, train
from support import DTYPES, ISAS, assert_same_step, running, some_values

EVERY = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference(case: Case, dtype: torch.dtype) -> None:
    """All sizes are in one step. Every ISA, with one and two threads. A step without a monitor has the same bits."""

    def run(case: Any, misalign: int) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        params = some_params(dtype, misalign)
        optimizer = case.make(params)
        for seed in range(2):
            step_on(optimizer, params, seed)
        return optimizer, params

    watched = Watched(case)
    with running("reference"):
        reference = run(watched, 0)
        expected = repr(watched.monitor.latest)
        assert len(watched.monitor.latest) == len(SHAPES)
    for isa in ISAS:
        for threads in (1, 2):
            with running("native", isa, threads):
                ours = run(watched, threads)
                assert repr(watched.monitor.latest) == expected, (isa, threads)
                assert_same_step(*ours, *reference)
    with running("native"):
        assert_same_step(*run(case, 1), *reference)


@EVERY
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_norms_of_torch(case: Case, dtype: torch.dtype) -> None:
    params = [param for param in some_params(dtype) if param.numel()]
    optimizer = case.make(params)
    monitor = fastopt.monitor(optimizer)
    for seed in range(3):
        before = [param.detach().to(torch.float64, copy=True) for param in params]
        step_on(optimizer, params, seed)
        for param, old, found in zip(params, before, monitor.latest, strict=True):
            update = float((param.detach().double() - old).norm())
            assert found.grad_norm == pytest.approx(float(param.grad.double().norm()), rel=1e-6)
            assert found.param_norm == pytest.approx(float(param.detach().double().norm()), rel=1e-6)
            assert found.update_norm == pytest.approx(update, rel=1e-6)
            assert found.ratio == found.update_norm / found.param_norm
            assert found.non_finite == 0


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "case", [c for c in PLAIN_CASES if c.ours in (fastopt.AdamW, fastopt.SGD, fastopt.LAMB)], ids=ids
)
def test_precision_options_equal_reference(case: Case, option: str) -> None:
    """Mixed types, with gradients that are scaled and a maximum norm."""
    watched, options = Watched(case), {**OPTIONS[option], "max_grad_norm": 3.0}
    with running("reference"):
        reference, expected, _ = run_kinds(watched, options, [], scale=8.0)
        wanted = repr(watched.monitor.latest)
    for isa in ISAS:
        for threads in (1, 2):
            with running("native", isa, threads):
                ours, params, _ = run_kinds(watched, options, [], scale=8.0)
                assert repr(watched.monitor.latest) == wanted, (isa, threads)
                assert_same_step(ours, params, reference, expected)
    with running("native"):
        ours, params, _ = run_kinds(case, options, [], scale=8.0)
        assert_same_step(ours, params, reference, expected)


@pytest.mark.parametrize("option", ["plain", "master", "split", "random"])
def test_parameter_is_what_the_step_updates(option: str) -> None:
    """The master where there is one; otherwise the rounded parameter."""
    params = half_params()
    optimizer = fastopt.AdamW(params, lr=1e-3, **OPTIONS[option])
    monitor = fastopt.monitor(optimizer)

    def kept(param: Tensor) -> Tensor:
        state = optimizer.state[param]
        if "remainder" in state:
            return joined(param.detach(), state["remainder"]).double()
        return state.get("master", param).detach().double()

    train(optimizer, params, range(1))
    before = [kept(param).clone() for param in params]
    train(optimizer, params, range(1, 2))
    for param, old, found in zip(params, before, monitor.latest, strict=True):
        now = kept(param)
        assert found.param_norm == pytest.approx(float(now.norm()), rel=1e-6)
        assert found.update_norm == pytest.approx(float((now - old).norm()), rel=1e-6)


def test_gradient_is_as_the_step_leaves_it() -> None:
    """Unscaled, but before clipping by norm and value, maximize and penalties."""
    param = some_values(5000, torch.float32, seed=1).requires_grad_()
    optimizer = fastopt.SGD(
        [param], lr=0.1, weight_decay=3.0, l1=1.0, maximize=True, max_grad_norm=0.1, max_grad_value=1e-3
    )
    monitor = fastopt.monitor(optimizer)
    grad = some_values(5000, torch.float32, seed=2)
    param.grad = grad * 64
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(64.0), torch.zeros(())
    optimizer.step()
    assert monitor.latest[0].grad_norm == pytest.approx(float(grad.double().norm()), rel=1e-6)
    assert float(param.grad.double().norm()) == pytest.approx(monitor.latest[0].grad_norm, rel=1e-12)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("ours", [fastopt.SGD, fastopt.Adafactor])
def test_counts_what_is_not_finite(ours: Any, dtype: torch.dtype, backend: str) -> None:
    where = [0, 31, 127, 128, 4095, 4096, 16384, 16639]
    for isa in ISAS:
        with running(backend, isa, 2):
            params = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape in (16640, (65, 256), 3)]
            optimizer = ours(params, lr=0.1)
            monitor = fastopt.monitor(optimizer)
            for param in params:
                param.grad = torch.ones_like(param)
            for param, value in ((params[0], math.inf), (params[1], math.nan)):
                param.grad.view(-1)[where] = value
            params[1].grad[0, 0] = -math.inf
            optimizer.step()
            assert [one.non_finite for one in monitor.latest] == [8, 8, 0]
            assert monitor.latest[0].grad_norm == math.inf
            assert math.isnan(monitor.latest[1].grad_norm)


def test_a_square_that_overflows_is_not_counted() -> None:
    param = torch.ones(200, dtype=torch.float64, requires_grad=True)
    monitor = fastopt.monitor(optimizer := fastopt.SGD([param], lr=0.0))
    param.grad = torch.full_like(param, 1e200)
    optimizer.step()
    assert monitor.latest[0][1::4] == (math.inf, 0.0)  # the norm of the gradient, and the ratio
    assert monitor.latest[0].non_finite == 0
