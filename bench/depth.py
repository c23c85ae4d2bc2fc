"""Deep Sequentials of BatchNorm and ReLU: the cost of a call must not grow with the length of its container."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

import fastopt

from .agreement import within
from .operation import Case, Input, Operation

WIDTH = 16
PAIRS = (1, 10, 100)
ROWS = Input(f"32x{WIDTH}", ((32, WIDTH),))


def _operation(pairs: int) -> Operation:
    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*(part for _ in range(pairs) for part in (nn.BatchNorm1d(WIDTH), nn.ReLU())))

    return Operation(
        family="batch_norm",
        name=f"Sequential of {pairs} x (BatchNorm1d, ReLU)",
        tensors=lambda input: [torch.randn(shape) for shape in input.shapes],
        ours=lambda tensors: partial(fastopt.nn.convert(made()), *tensors),
        rival="torch",
        others={
            "torch default": lambda tensors: partial(made(), *tensors),
            "fastopt unfused": lambda tensors: partial(fastopt.nn.convert(made(), fuse=False), *tensors),
        },
        traffic=None,
        agreement=within(1e-2),
    )


def on_cpu() -> list[Case]:
    return [Case(_operation(pairs), ROWS, quick=True) for pairs in PAIRS]


def on_cuda() -> list[Case]:
    return []
