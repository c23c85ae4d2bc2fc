"""Promises of every optimizer: it goes downhill, keeps types, survives empty parameters, and takes options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastopt
from optimizer_cases import PLAIN_CASES, ROWS, Case, Row, ids
from support import DTYPES, HALF, assert_same_bits, running, some_params, some_values, step_on_some_grads

CASES = pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def _parabola(x: torch.Tensor) -> torch.Tensor:
    return ((x - torch.tensor([1.0, -2.0, 0.5])) ** 2).sum()


def _rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def _descend(f: Callable[..., torch.Tensor], start: list[float], steps: int, make: Any, lr: float) -> float:
    """Descends with a learning rate that falls to 0."""
    x = torch.tensor(start, requires_grad=True)
    optimizer = make([x], lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        f(x).backward()
        optimizer.step()
        schedule.step()
    return f(x).item()


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["alone", "in Lookahead"])
@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_converges(row: Row, inside: str) -> None:
    parabola_lr, rosenbrock_lr, more = row.rates

    def make(params: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
        options = {**row.plain, **(more if len(params[0]) == 2 else {})}
        optimizer = row.ours(params, lr=lr, **options)
        return fastopt.Lookahead(optimizer, alpha=0.8) if inside == "in Lookahead" else optimizer

    longer = 1.5 if inside == "in Lookahead" else 1  # Lookahead halves the speed
    assert _descend(_parabola, [5.0, 5.0, -3.0], int(1000 * longer), make, parabola_lr) < 1e-3  # from 77
    assert _descend(_rosenbrock, [-1.2, 1.0], int(3000 * longer), make, rosenbrock_lr) < 0.05  # from 24


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64], ids=str)
@CASES
def test_types_are_kept(case: Case, dtype: torch.dtype) -> None:
    """Parameters, gradients and states keep their types, shapes and layouts."""
    if dtype.is_complex and not case.row.complex:
        param = torch.ones(3, dtype=dtype, requires_grad=True)
        param.grad = torch.ones(3, dtype=dtype)
        with pytest.raises(RuntimeError, match=f"{case.ours.__name__} does not support complex parameters"):
            case.make([param]).step()
        return
    params = [torch.ones(s).to(dtype).requires_grad_() for s in [(2, 3, 4, 5), (7,), ()]]
    params[0] = params[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    optimizer = case.make(params)
    for _ in range(2):
        for param in params:
            param.grad = torch.full_like(param, 0.5)
        optimizer.step()
    for param in params:
        assert (param.dtype, param.grad.dtype) == (dtype, dtype)
        for key, state in optimizer.state[param].items():
            number = key == "step" or key in optimizer._carried
            wide = number or key in case.row.wide.get(dtype, ())
            assert state.dtype == (torch.float32 if wide else dtype), key
    assert params[0].is_contiguous(memory_format=torch.channels_last)


@BACKENDS
@pytest.mark.parametrize("dtype", HALF, ids=str)
@CASES
def test_state_dtype(case: Case, dtype: torch.dtype, backend: str) -> None:
    """float32 states behave like those of a float32 optimizer whose parameters are rounded after each step."""
    ours = some_params(dtype)
    wide = [p.detach().float().requires_grad_() for p in ours]
    one, other = case.make(ours, state_dtype=torch.float32), case.make(wide)
    with running(backend):
        for step in range(4):
            step_on_some_grads(one, ours, step)
            for p, w in zip(ours, wide, strict=True):
                w.grad = p.grad.float()
            other.step()
            for p, w in zip(ours, wide, strict=True):
                assert_same_bits(p, w.to(dtype))
                w.data.copy_(p.data)
    for p, w in zip(ours, wide, strict=True):
        assert one.state[p].keys() == other.state[w].keys()
        for key, state in one.state[p].items():
            assert_same_bits(state, other.state[w][key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
def test_state_dtype_never_narrows(dtype: torch.dtype) -> None:
    param = torch.ones(3, dtype=dtype, requires_grad=True)
    param.grad = torch.ones(3, dtype=dtype)
    optimizer = fastopt.Adam([param], state_dtype=torch.float32)
    optimizer.step()
    assert optimizer.state[param]["exp_avg"].dtype == dtype


@pytest.mark.parametrize("wrong", [torch.float16, torch.float64, "float32"])
@CASES
def test_bad_state_dtype(case: Case, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"Invalid state_dtype: .*float.*, not None, torch.float32, torch.bfloat16 or"):
        case.make([torch.ones(3, requires_grad=True)], state_dtype=wrong)


@BACKENDS
@CASES
def test_empty_parameters(case: Case, backend: str) -> None:
    """Empty parameters count their steps and change nothing else, alone or together with others."""
    empty = [torch.empty(s, requires_grad=True) for s in [(0,), (4, 0, 3), (0, 5)]]
    other, expected = (some_values(70, torch.float32, seed=0).requires_grad_() for _ in range(2))
    alone, beside, without = case.make(empty[:1]), case.make([*empty[1:], other]), case.make([expected])
    with running(backend):
        for step in range(3):
            for param in empty:
                param.grad = torch.empty_like(param)
            other.grad = some_values(70, torch.float32, seed=step)
            expected.grad = other.grad.clone()
            for optimizer in (alone, beside, without):
                optimizer.step()
    assert_same_bits(other, expected)
    for param in empty[1:]:
        assert float(beside.state[param].get("step", 3)) == 3


@CASES
def test_no_gradients_at_all(case: Case) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = case.make([param], max_grad_norm=1.0)
    optimizer.step()
    assert (param == 1).all()
    assert param._version == 0


@CASES
def test_a_second_keyword_is_an_error(case: Case) -> None:
    with pytest.raises(
        TypeError, match=rf"{case.ours.__name__}.__init__\(\) got an unexpected keyword argument 'nope'"
    ):
        case.ours([torch.ones(3, requires_grad=True)], nope=1)


@CASES
def test_the_docstring_is_complete(case: Case) -> None:
    """It describes every argument, the errors, an example and the paper. Common options are described once for all."""
    text, common = case.ours.__doc__ or "", fastopt.optim.CommonOptions.__annotations__
    assert "**common: options of every optimizer, see :class:`fastopt.optim.CommonOptions`" in text
    for name in inspect.signature(case.ours).parameters:
        assert name in common or f"{name}:" in text, name
    for section in ("Args:", "Raises:", "Examples:", "Reference: "):
        assert section in text
