"""Errors of LBFGS and NonlinearCG name what is wrong, and write nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closures import METHODS
from torch import Tensor

import fastopt

methods = pytest.mark.parametrize("name", METHODS)
F64 = torch.float64


def start(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).requires_grad_()


ERRORS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "lr": (ValueError, "learning rate: -1", {"lr": -1}),
    "lr as text": (TypeError, "learning rate has to be a number", {"lr": "1"}),
    "max_iter": (ValueError, "max_iter: 0", {"max_iter": 0}),
    "max_eval": (ValueError, "max_eval: -3", {"max_eval": -3}),
    "max_ls": (ValueError, "max_ls: 1.5", {"max_ls": 1.5}),
    "tolerance_grad": (ValueError, "tolerance_grad: -1", {"tolerance_grad": -1}),
    "tolerance_change": (ValueError, "tolerance_change: nan", {"tolerance_change": float("nan")}),
    "search": (ValueError, "line_search_fn: 'wolfe'", {"line_search_fn": "wolfe"}),
    "unknown": (TypeError, "momentum", {"momentum": 0.9}),
}


@methods
@pytest.mark.parametrize("error", ERRORS)
def test_wrong_options(name: str, error: str) -> None:
    kind, match, options = ERRORS[error]
    with pytest.raises(kind, match=match):
        METHODS[name]([start(3)], **options)
    if error not in ("unknown", "lr as text"):
        optimizer = METHODS[name]([start(3)])
        optimizer.param_groups[0].update(options)
        with pytest.raises(kind, match=match):
            optimizer.step(lambda: 0.0)


def test_wrong_options_of_one_method() -> None:
    for options in ({"history_size": 0}, {"min_curvature": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            fastopt.LBFGS([start(3)], **options)
    for options in ({"beta": "polak"}, {"restart": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            fastopt.NonlinearCG([start(3)], **options)


@methods
def test_one_option_for_all_groups(name: str) -> None:
    optimizer = METHODS[name]([start(3)])
    with pytest.raises(ValueError, match="max_iter is 20 in the first group, and one for all: 5"):
        optimizer.add_param_group({"params": [start(2)], "max_iter": 5})
    assert len(optimizer.param_groups) == 1


@methods
def test_wrong_closures(name: str) -> None:
    x = start(3)
    before = x.detach().clone()
    optimizer = METHODS[name]([x])
    for closure, kind, match in (
        (None, TypeError, "needs a closure"),
        (lambda: None, TypeError, "returned None"),
        (lambda: torch.ones(2), RuntimeError, r"one number, but returned a tensor \(2,\)"),
        (lambda: torch.tensor(1j), RuntimeError, "complex"),
        (lambda: "loss", TypeError, "'loss'"),
    ):
        with pytest.raises(kind, match=match):
            optimizer.step(closure)
    assert torch.equal(x, before)


@methods
def test_wrong_gradients_name_the_parameter(name: str) -> None:
    x, y = start(3), start(4)
    optimizer = METHODS[name]([x, y])
    y.grad = torch.ones(4, dtype=F64)
    y.data = torch.ones(5, dtype=F64)
    with pytest.raises(RuntimeError, match=r"the gradient of parameter 1 of group 0 is torch.float64 of shape \(4,\)"):
        optimizer.step(lambda: 1.0)
    assert (y == 1).all()


@methods
def test_parameters_that_share_memory(name: str) -> None:
    whole = torch.zeros(6, dtype=F64)
    optimizer = METHODS[name]([whole[2:].requires_grad_(), whole[:4].requires_grad_()])
    with pytest.raises(RuntimeError, match="parameter 1 of group 0 and parameter 0 of group 0 share memory"):
        optimizer.step(lambda: 1.0)
    optimizer = METHODS[name]([torch.zeros(1).expand(4).requires_grad_()])
    with pytest.raises(RuntimeError, match="parameter 0 of group 0"):
        optimizer.step(lambda: 1.0)


@methods
def test_parameters_that_cannot_be_taken(name: str) -> None:
    for param, match in (
        (torch.ones(3, device="meta", requires_grad=True), "device 'meta'"),
        (torch.ones(3, dtype=torch.float8_e4m3fn).requires_grad_(), "float8_e4m3fn"),
    ):
        optimizer = METHODS[name]([start(2), param])
        with pytest.raises(RuntimeError, match=match):
            optimizer.step(lambda: 1.0)
