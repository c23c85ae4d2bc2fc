"""Muon on a device: momentum and application have the reference's bits; the products are torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastopt
from gpu import DEVICE, REAL, assert_same, gpu
from support import DTYPES, running, some_values

SHAPES = [(33, 31), (33, 31), (70, 240), (5, 4, 3), (1, 9)]


def _train(device: Any, dtype: torch.dtype, **options: Any) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    params = [some_values(shape, dtype, i).to(device).requires_grad_() for i, shape in enumerate(SHAPES)]
    optimizer = fastopt.Muon(params, lr=0.1, flatten=True, **options)
    for step in range(3):
        for i, param in enumerate(params):
            param.grad = some_values(param.shape, dtype, 100 * step + i).to(device)
        optimizer.step()
    return optimizer, params


@pytest.mark.skipif(REAL, reason="a GPU's matrix products have other bits")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False, "max_grad_norm": 0.5, "l1": 0.1}, {"ema": 0.9}, {"momentum": 0.0}], ids=str
)
def test_equals_reference(options: dict[str, Any], dtype: torch.dtype) -> None:
    with running("reference"):
        reference, expected = _train("cpu", dtype, **options)
    with gpu():
        ours, params = _train(DEVICE, dtype, **options)
    assert_same(ours, params, reference, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_momentum_equals_the_references(dtype: torch.dtype) -> None:
    """It does not depend on the products."""
    with running("reference"):
        reference, expected = _train("cpu", dtype, weight_decay=0.0)
    with gpu():
        ours, params = _train(DEVICE, dtype, weight_decay=0.0)
    for a, b in zip(params, expected, strict=True):
        assert torch.equal(ours.state[a]["momentum_buffer"].cpu(), reference.state[b]["momentum_buffer"])
        assert torch.allclose(a.detach().cpu().float(), b.detach().float(), atol=0.05)
