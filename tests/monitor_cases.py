"""What the tests of ``fastopt.monitor`` share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastopt
from optimizer_cases import Case
from support import Guarded, some_values

# Around 32 lanes, blocks of 128, chunks of 4096 and tiles of 16384; matrices around Adafactor's tiles of 64 x 256.
SHAPES: list[Any] = [0, 1, 31, 33, 127, 129, 4095, 4097, 16385, (), (0, 5), (65, 257), (2, 3, 300), (7, 4, 5)]


class Watched:
    """A case whose optimizers have a monitor."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def make(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        optimizer = self.case.make(params, **more)
        self.monitor = fastopt.monitor(optimizer)
        return optimizer


def some_params(
    dtype: torch.dtype, misalign: int = 0, device: torch.device | str = "cpu", shapes: Any = SHAPES
) -> list[Tensor]:
    """Parameters of all shapes, each at another multiple of a misalignment."""
    params = []
    for i, shape in enumerate(shapes):
        values = some_values(shape, dtype, seed=i)
        inside = Guarded(values.numel(), dtype, misalign * (i % 16), device).inside
        params.append(inside.view(values.shape).copy_(values))
    return [param.requires_grad_() for param in params]


def step_on(optimizer: torch.optim.Optimizer, params: list[Tensor], seed: int) -> None:
    for i, param in enumerate(params):
        param.grad = some_values(param.shape, param.dtype, 100 * seed + i, 1e-3, 10.0).to(param.device)
    optimizer.step()
