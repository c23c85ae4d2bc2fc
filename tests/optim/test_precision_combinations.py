"""Ways to store and everything else that a step does: each combination is right, or an error that says why."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from optimizer_cases import PLAIN_CASES, ROWS, Case, ids
from precision_cases import BF16, OPTIONS, half_params, set_grad, takes, train
from support import (
    HALF,
    assert_same_bits,
    assert_same_states,
    assert_same_step,
    called,
    compared_with_reference,
    named,
    running,
    some_values,
    states_of,
)

pytestmark = pytest.mark.slow

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS)
STORED = {name: options for name, options in OPTIONS.items() if options}
TAKEN = [(o, dtype) for o in OPTIONS for dtype in (*HALF, torch.float32) if takes(OPTIONS[o], dtype)]
SIZES = [(65, 64), (33,), ()]


def _grads(step: int, params: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [some_values(param.shape, BF16, 10 * step + i).to(dtype or param.dtype) for i, param in enumerate(params)]


@pytest.mark.parametrize("fused", [False, True], ids=["scaler", "step"])
@pytest.mark.parametrize(("option", "dtype"), TAKEN, ids=str)
@BACKENDS
def test_grad_scaler(option: str, fused: bool, dtype: torch.dtype, backend: str) -> None:
    """Scaled training is training, to the bit; a step with an inf does nothing, and does not count."""
    options = OPTIONS[option]
    ours, plain = half_params(dtype, SIZES), half_params(dtype, SIZES)
    one, other = fastopt.AdamW(ours, lr=0.05, **options), fastopt.AdamW(plain, lr=0.05, **options)
    one.param_groups[0]["fused"] = fused
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)
    with running(backend):
        for step in range(6):
            scaler.scale(torch.ones(()))
            scale, bad = scaler.get_scale(), step == 2
            grads = _grads(step, ours, torch.float32)
            for p, q, grad in zip(ours, plain, grads, strict=True):
                set_grad(p, grad * scale)
                set_grad(q, grad.clone())
            if bad:
                ours[0].grad[3] = torch.inf
                before, states = [p.detach().clone() for p in ours], states_of(one)
            scaler.step(one)
            scaler.update()
            if bad:
                assert_same_states(one, states)
                assert all(torch.equal(p, q) for p, q in zip(ours, before, strict=True))
            else:
                other.step()
                for p, grad in zip(ours, grads, strict=True):
                    assert_same_bits(p.grad, grad, "the unscaled gradient")
    assert_same_step(one, ours, other, plain)


@EVERY_OPTION
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_clipping_equals_reference(case: Case, option: str) -> None:
    """A norm over gradients of several types, and a limit of values."""

    def run() -> tuple[torch.optim.Optimizer, list[Tensor]]:
        params = half_params(sizes=SIZES)
        optimizer = case.make(params, max_grad_norm=0.5, max_grad_value=0.01, l1=0.01, **OPTIONS[option])
        for step in range(3):
            for i, (param, grad) in enumerate(zip(params, _grads(step, params), strict=True)):
                set_grad(param, grad.to([torch.float32, BF16, torch.float16][(i + step) % 3]))
            optimizer.step()
        return optimizer, params

    for (ours, _), (reference, _) in compared_with_reference(run):
        assert ours.grad_norm == reference.grad_norm


@BACKENDS
def test_clipping_with_a_master_is_that_of_float32(backend: str) -> None:
    params = half_params(sizes=SIZES)
    twins = [param.detach().float().requires_grad_() for param in params]
    with running(backend):
        ours = fastopt.AdamW(params, master="float32", max_grad_norm=0.5, max_grad_value=0.01, ema=0.5)
        theirs = fastopt.AdamW(twins, max_grad_norm=0.5, max_grad_value=0.01, ema=0.5)
        train(ours, params, range(4), BF16)
        train(theirs, twins, range(4), torch.float32)
    assert ours.grad_norm == theirs.grad_norm
    for param, twin in zip(params, twins, strict=True):
        assert_same_bits(ours.state[param]["master"], twin)
        assert_same_bits(ours.state[param]["ema"], theirs.state[twin]["ema"])


@BACKENDS
@pytest.mark.parametrize("option", STORED)
@pytest.mark.parametrize("make", [row.ours for row in ROWS if row.sparse])
def test_sparse_rows(make: Any, option: str, backend: str) -> None:
    """Where a gradient updates rows, every option is an error that names the parameter."""
    weight = torch.ones(70, 65, dtype=BF16 if "master" in option or "split" in option else torch.float32)
    weight.requires_grad_()
    optimizer = make(named(weight=weight), **OPTIONS[option])
    weight.grad = torch.sparse_coo_tensor([[3]], torch.ones(1, 65, dtype=weight.dtype), (70, 65), check_invariants=True)
    with running(backend), pytest.raises(RuntimeError, match=f"{called('weight')} has a sparse gradient.*whole param"):
        optimizer.step()
    assert (weight == 1).all()
    assert "step" not in optimizer.state[weight] or optimizer.state[weight]["step"] == 0


@pytest.mark.parametrize("option", STORED)
def test_sparse_gradients_of_everything(option: str) -> None:
    """SGD with momentum updates everything, as with a dense gradient."""
    params, expected = (half_params(sizes=[(70, 65)]) for _ in range(2))
    ours, theirs = (fastopt.SGD(p, lr=0.1, momentum=0.9, **OPTIONS[option]) for p in (params, expected))
    for step in range(2):
        (grad,) = _grads(step, params)
        grad[::2] = 0
        params[0].grad, expected[0].grad = grad.to_sparse(), grad
        ours.step()
        theirs.step()
    assert_same_step(ours, params, theirs, expected)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float64], ids=str)
@pytest.mark.parametrize("option", STORED)
def test_complex_and_float64(option: str, dtype: torch.dtype) -> None:
    """Masters and random rounding have nothing to do; averages have its type; narrow states are errors."""
    options = OPTIONS[option]
    start = some_values(4200, torch.float64, 0)
    start = torch.complex(start, start.flip(0)).to(dtype) if dtype.is_complex else start

    def run(**options: Any) -> tuple[torch.optim.Optimizer, Tensor]:
        param = start.clone().requires_grad_()
        optimizer = fastopt.AdamW(named(weight=param), lr=0.1, **options)
        for step in range(3):
            param.grad = start.roll(step + 1)
            optimizer.step()
        return optimizer, param

    if options.get("state_dtype") is not None:
        with pytest.raises(RuntimeError, match=f"{called('weight')} has dtype {dtype}; state_dtype="):
            run(**options)
        return
    with running("reference"):
        reference, expected = run(**options)
    ours, param = run(**options)
    assert_same_step(ours, [param], reference, [expected])
    _, plain = run()
    assert_same_bits(param, plain)
    assert "ema" not in options or ours.state[param]["ema"].dtype == dtype


@pytest.mark.parametrize("option", OPTIONS)
def test_lookahead(option: str) -> None:
    """Slow weights take rounding and narrow states; masters, averages and copies are errors that name the option."""
    options = OPTIONS[option]

    def run() -> tuple[fastopt.Lookahead, list[Tensor]]:
        params = half_params(sizes=SIZES)
        optimizer = fastopt.Lookahead(fastopt.AdamW(params, lr=0.1, **options), k=2)
        for step in range(4):
            train(optimizer, params, range(step, step + 1))
        return optimizer, params

    refused = [key for key in ("master", "ema") if key in options]
    if refused:
        with pytest.raises(RuntimeError, match=f"{refused[0]}: Lookahead"):
            run()
        return
    with running("reference"):
        reference, expected = run()
    ours, params = run()
    assert_same_step(ours, params, reference, expected)
    assert_same_step(ours.optimizer, params, reference.optimizer, expected)


@pytest.mark.parametrize("dtype", [torch.float64, BF16, torch.float16], ids=str)
def test_gradients_are_widened(dtype: torch.dtype) -> None:
    """A narrow gradient is the same as its float32 copy; a float64 one is rounded to the parameter's arithmetic."""
    params, expected = ([some_values(300, torch.float32, 0).requires_grad_()] for _ in range(2))
    ours, theirs = fastopt.AdamW(params, lr=0.1), fastopt.AdamW(expected, lr=0.1)
    for step in range(3):
        grad = some_values(300, torch.float64, step).to(dtype)
        set_grad(params[0], grad)
        expected[0].grad = grad.float()
        ours.step()
        theirs.step()
        assert params[0].grad is grad
    assert_same_step(ours, params, theirs, expected)
