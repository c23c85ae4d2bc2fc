"""``fastopt.offload`` gives a device's parameters the bits that the optimizer gives them on the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fastopt
from fastopt._offload import host
from gpu import DEVICE, REAL, assert_same, gpu
from late_copies import LateTransfers
from optimizer_cases import PLAIN_CASES, Case, ids
from support import running, some_values

SHAPES = [(70, 3), (33,), (16, 16), (0,), (4100,)]
FREE = pytest.mark.parametrize("free", [False, True], ids=["kept", "freed"])
Trained = tuple[Any, list[nn.Parameter]]


def _train(make: Any, offloaded: bool, free: bool, dtype: torch.dtype = torch.float32) -> Trained:
    params = [nn.Parameter(some_values(shape, dtype, i).to(DEVICE)) for i, shape in enumerate(SHAPES)]
    optimizer = make(params)
    if offloaded:  # a GPU's own streams; without one, copies that come late
        fastopt.offload(optimizer, free_grads=free, transfers=None if REAL else LateTransfers)
    for step in range(4):
        for i, param in enumerate(params):
            param.backward(some_values(param.shape, dtype, 100 * step + i).to(DEVICE))
        optimizer.step()
        optimizer.zero_grad()
    return optimizer, params


def _compare(make: Any, free: bool, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32) -> None:
    monkeypatch.setattr(host, "_CHUNK", 400)
    with gpu():
        there, expected = _train(make, False, False, dtype)
    with running("native"):
        here, params = _train(make, True, free, dtype)
    assert_same(there, expected, here, params)


@FREE
@pytest.mark.parametrize("case", PLAIN_CASES, ids=ids)
def test_equals_the_optimizer_on_the_device(case: Case, free: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _compare(case.make, free, monkeypatch)


@FREE
@pytest.mark.parametrize(
    "options",
    [{"master": "split"}, {"master": "float32", "ema": 0.9}, {"state_dtype": "int8"}, {"max_grad_norm": 0.5}],
    ids=str,
)
def test_options(options: dict[str, Any], free: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _compare(lambda params: fastopt.AdamW(params, lr=0.1, **options), free, monkeypatch, torch.bfloat16)
