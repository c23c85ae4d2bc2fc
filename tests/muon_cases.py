"""What the tests of Muon share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from support import some_values, step_on_some_grads

SHAPES = [(64, 64), (64, 64), (32, 128), (128, 32), (96, 200), (5, 1), (1, 7), (33, 31), (0, 4), (256, 100)]
BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])
NEEDS_TORCHS = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")


def some_matrices(dtype: torch.dtype = torch.float32, shapes: Any = SHAPES) -> list[Tensor]:
    return [some_values(shape, dtype, seed=i).requires_grad_() for i, shape in enumerate(shapes)]


def train_on(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: int = 3) -> None:
    for step in range(steps):
        step_on_some_grads(optimizer, params, step + 1)
