"""``fastopt.step_in_backward`` on a device has the bits of an ordinary loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fastopt
from gpu import DEVICE, assert_same, gpu
from optimizer_cases import PLAIN_CASES, Case, ids
from support import some_values

CASES = [case for case in PLAIN_CASES if case.ours is not fastopt.Prodigy and case.ours is not fastopt.Lookahead]


def _train(make: Any, every: int | None, dtype: torch.dtype = torch.float32) -> tuple[Any, list[nn.Parameter]]:
    model = nn.ParameterList([some_values(shape, dtype, i).to(DEVICE) for i, shape in enumerate([(70, 3), (33,)])])
    params = list(model.parameters())
    optimizer = make(params)
    if every is not None:
        fastopt.step_in_backward(model, optimizer, every)
    for step in range(4):
        terms = [(p * some_values(p.shape, dtype, 10 * step + i).to(DEVICE)).sum() for i, p in enumerate(params)]
        torch.stack(terms).sum().backward()
        if every is None and step % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()
        assert every is None or step % 2 == 0 or all(param.grad is None for param in params)
    return optimizer, params


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_equals_an_ordinary_loop(case: Case) -> None:
    with gpu():
        one, expected = _train(case.make, None)
        other, params = _train(case.make, 2)
    assert_same(other, params, one, expected)
