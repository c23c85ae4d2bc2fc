"""Cost against the number of elements, of tensors and of threads: curves with a few competitors each."""

from __future__ import annotations

import torch

from . import batch_norm, dropout
from .operation import Case, Input, Operation, Point
from .optimizers import N, one, operation

ONLY = ("torch default", "torch fused")
TENSORS = (1, 3, 10, 30, 100, 300, 1000)


def _points(what: Operation, curve: str, inputs: dict[int, Input], quick: bool = False) -> list[Case]:
    return [Case(what, input, quick=quick, point=Point(curve, x), only=ONLY) for x, input in inputs.items()]


def _by_threads(what: Operation, input: Input) -> list[Case]:
    curve = f"{what.name}, {input.label}, by threads"
    counts = sorted({1, *(1 << k for k in range(1, 8) if 1 << k < torch.get_num_threads()), torch.get_num_threads()})
    return [Case(what, input, threads=count, point=Point(curve, count), only=ONLY) for count in counts]


def on_cpu() -> list[Case]:
    adam, sgd = operation("Adam"), operation("SGD momentum")
    sizes = {elements: one(size) for size, elements in N.items() if elements <= N["32M"]}
    small = {n: Input(f"{n} tensor{'s'[: n - 1]} of 64", ((64,),) * n) for n in TENSORS}
    return [
        *[case for what in (adam, sgd) for case in _points(what, f"{what.name}, by elements", sizes)],
        *[case for what in (adam, sgd) for case in _points(what, f"{what.name}, by tensors of 64", small)],
        *[case for what in (adam, operation("NAdam")) for case in _by_threads(what, one("1M"))],
        *_by_threads(adam, one("16M")),
        *_by_threads(dropout.DROPOUT, Input("1M", ((N["1M"],),))),
        *_by_threads(batch_norm.PLAIN, batch_norm.input_of("32x64x56x56 NCHW")),
    ]


def on_cuda() -> list[Case]:
    return []
