"""Ways to store and everything else that a step does: each combination is right, or an error that says why."""

from typing import Any

import pytest
import torch
from torch import Tensor

import fastopt
from optimizer_cases import PLAIN_CASES, ROWS, Case, ids
from precision_cases import BF16, OPTIONS, half_params, set_grad, takes, train
from support import ISAS, assert_same_bits, assert_same_states, assert_same_step, called, named, running, states_of
from support import some_values as values

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
EVERY_OPTION = pytest.mark.parametrize("option", OPTIONS)
STORED = {name: options for name, options in OPTIONS.items() if options}
SIZES = [(65, 64), (33,), ()]


def _grads(step: int, params: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [values(param.shape, BF16, 10 * step + i).to(dtype or param.dtype) for i, param in enumerate(params)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("fused", [False, True], ids=["scaler", "step"])
@EVERY_OPTION
@BACKENDS
def test_grad_scaler(option: str, fused: bool, dtype: torch.dtype, backend: str) -> None:
    """Scaled training is training, to the bit; a step with an inf does nothing, and does not count."""
    options = OPTIONS[option]
    if not takes(options, dtype):
        pytest.skip("the option is not for this type")
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

    with running("reference"):
        reference, expected = run()
    for isa in ISAS:
        with running("native", isa):
            ours, params = run()
        assert_same_step(ours, params, reference, expected)
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
    weight.grad = torch.sparse_coo_tensor([[3]], torch.ones(1, 65, dtype=weight.dtype), (70, 65))
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


def _complex(dtype: torch.dtype) -> Tensor:
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    return torch.complex(values(4200, real, 0), values(4200, real, 1))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float64], ids=str)
@pytest.mark.parametrize("option", STORED)
def test_complex_and_float64(option: str, dtype: torch.dtype) -> None:
    """Masters and random rounding have nothing to do; averages are of the parameter's type; narrow states are errors."""
    options = OPTIONS[option]
    start = values(4200, dtype, 0) if dtype == torch.float64 else _complex(dtype)

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


def test_lookahead_refuses_copies() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = fastopt.Lookahead(fastopt.SGD([{"params": [param], "copies": [torch.zeros(3)]}], lr=0.1))
    param.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="copies: Lookahead"):
        optimizer.step()
    assert (param == 1).all()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"master": "bfloat16"}, "Invalid master: 'bfloat16'"),
    ({"master": True}, "Invalid master: True"),
    ({"rounding": "up"}, "Invalid rounding: 'up'"),
    ({"rounding_seed": -1}, "Invalid rounding_seed: -1"),
    ({"rounding_seed": 2**64}, "Invalid rounding_seed"),
    ({"rounding_seed": 1.5}, "Invalid rounding_seed: 1.5"),
    ({"state_dtype": torch.float16}, "Invalid state_dtype: torch.float16"),
    ({"state_dtype": "int4"}, "Invalid state_dtype: int4"),
    ({"state_dtype": 8}, "Invalid state_dtype: 8"),
    ({"master": "split", "rounding": "stochastic"}, "rounding='stochastic' with a master"),
]
WITH_CAPTURABLE = [{"ema": 0.9}, {"rounding": "stochastic"}, {"state_dtype": BF16}]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_refused_options(options: dict[str, Any], message: str) -> None:
    """By the constructor, by add_param_group, and by a step after a change; nothing is written."""
    param = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        fastopt.AdamW([param], **options)
    optimizer = fastopt.AdamW([param], lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [torch.ones(1, requires_grad=True)], **options})
    optimizer.param_groups[0].update(options)
    param.grad = torch.ones(3)
    if "rounding_seed" not in options:  # without random rounding nobody reads it
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        assert (param == 1).all()


@pytest.mark.parametrize("options", WITH_CAPTURABLE, ids=str)
def test_capturable(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="(ema|stochastic rounding) with capturable=True: the step count"):
        fastopt.AdamW([torch.ones(3, requires_grad=True)], capturable=True, **options)


@BACKENDS
def test_gradients_of_other_kinds(backend: str) -> None:
    """Any real floating type goes with a real parameter; complex numbers and integers do not."""
    weight = torch.ones(3, requires_grad=True)
    weight.grad_dtype = None
    optimizer = fastopt.AdamW(named(weight=weight))
    for dtype in (torch.complex64, torch.int32):
        weight.grad = torch.ones(3, dtype=dtype)
        with running(backend), pytest.raises((RuntimeError, TypeError), match=f"the gradient of {called('weight')}"):
            optimizer.step()
    assert (weight == 1).all()
    assert not optimizer.state


@pytest.mark.parametrize("dtype", [torch.float64, BF16, torch.float16], ids=str)
def test_gradients_are_widened(dtype: torch.dtype) -> None:
    """A narrow gradient is the same as its float32 copy; a float64 one is rounded to the parameter's arithmetic."""
    params, expected = ([values(300, torch.float32, 0).requires_grad_()] for _ in range(2))
    ours, theirs = fastopt.AdamW(params, lr=0.1), fastopt.AdamW(expected, lr=0.1)
    for step in range(3):
        grad = values(300, torch.float64, step).to(dtype)
        set_grad(params[0], grad)
        expected[0].grad = grad.float()
        ours.step()
        theirs.step()
        assert params[0].grad is grad
    assert_same_step(ours, params, theirs, expected)
