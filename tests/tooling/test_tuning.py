"""Choices that depend on the machine: reported, changeable by an environment variable, without effect on results."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

import fastopt
import fastopt.nn.functional as F
from fastopt import _core
from fresh_process import INFO, output, python
from support import assert_same_bits, some_values

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = _core.tuning()
    yield
    for name, value in before.items():
        _core.tune(name, value)


def _results() -> list[torch.Tensor]:
    """Results of every kind of walk, for sizes beyond several tiles and with a tail."""
    p = some_values((70_001,), torch.float32, 1).requires_grad_()
    p.grad = some_values(p.shape, torch.float32, 2)
    half = some_values((40_003,), torch.bfloat16, 3).requires_grad_()
    half.grad = some_values(half.shape, torch.bfloat16, 4)
    optimizer = fastopt.AdamW([p, half], lr=0.1, max_grad_norm=1.0)
    for _ in range(2):
        optimizer.step()
    found = [p.detach(), half.detach(), F.dropout(p.detach(), 0.3, seed=1)]
    for shape in ((4, 8, 40, 40), (300, 70)):
        for layout in (torch.contiguous_format, torch.channels_last)[: 2 if len(shape) == 4 else 1]:
            x = some_values(shape, torch.float32, 5)
            x = x.contiguous(memory_format=layout).requires_grad_()
            y = F.batch_norm(x, None, None, training=True, activation="silu")
            found += [y.detach(), *torch.autograd.grad(y, x, some_values(shape, torch.float32, 6))]
    return found


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ahead", (0, 64, 4096, 1 << 40)),
        ("stream_forward", (0, 1 << 12, 1 << 40)),
        ("stream_backward", (0, 1 << 12, 1 << 40)),
        ("grain", (0, 1, 1000, 1 << 40)),
    ],
)
def test_no_result_depends_on_it(name: str, values: tuple[int, ...], threads: int) -> None:
    expected = _results()
    torch.set_num_threads(threads)
    for value in values:
        _core.tune(name, value)
        for ours, wanted in zip(_results(), expected, strict=True):
            assert_same_bits(ours, wanted, f"{name}={value}")


def test_reported_and_changed() -> None:
    info = fastopt.info()
    assert info["in_use"]["tuning"] == _core.tuning()
    assert set(info["in_use"]["tuning"]) == {"ahead", "stream_forward", "stream_backward", "grain"}
    if info["detected"]["machine"] == "x86_64":
        assert info["detected"]["cpu"]
    changed = json.loads(output(INFO, FASTOPT_TUNING="ahead=128, grain=7"))["in_use"]["tuning"]
    assert changed == {**info["in_use"]["tuning"], "ahead": 128, "grain": 7}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("speed=9", "FASTOPT_TUNING: unknown name 'speed', known: ahead, stream_forward, stream_backward, grain"),
        ("ahead", "FASTOPT_TUNING: 'ahead' is not name=number"),
        ("ahead=-1", "FASTOPT_TUNING: 'ahead=-1' is not name=number"),
        ("ahead=lots", "FASTOPT_TUNING: 'ahead=lots' is not name=number"),
    ],
)
def test_unknown_choices_are_errors(value: str, message: str) -> None:
    done = python("import fastopt", FASTOPT_TUNING=value)
    assert done.returncode != 0
    assert message in done.stderr
