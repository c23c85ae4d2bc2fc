"""What is measured: one description per case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import fastopt

MLP = [(32, 64), (32,), (32, 32), (32,), (32, 32), (32,), (32, 32), (32,), (10, 32), (10,)]


@dataclass(frozen=True)
class Case:
    """One optimizer on one list of parameters, beside torch's own implementations of it."""

    name: str
    ours: type[torch.optim.Optimizer]
    theirs: type[torch.optim.Optimizer]
    shapes: list[tuple[int, ...]]
    words: int  # read and written per element: parameter 2, gradient 1, each state 2
    kwargs: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    quick: bool = True  # part of --quick

    @property
    def elements(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def bytes(self) -> int:
        return self.elements * self.words * self.dtype.itemsize

    def peers(self) -> dict[str, Callable[[], object]]:
        """A step of each competitor, ours first, on tensors of its own."""
        makers: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
            "fastopt": lambda p: self.ours(p, **self.kwargs),
            "torch fused": lambda p: self.theirs(p, **self.kwargs, fused=True),
            "torch default": lambda p: self.theirs(p, **self.kwargs),
        }
        steps: dict[str, Callable[[], object]] = {}
        for name, make in makers.items():
            params = [torch.randn(shape).to(self.dtype).requires_grad_() for shape in self.shapes]
            for param in params:
                param.grad = torch.randn(param.shape).to(self.dtype)
            steps[name] = make(params).step
        return steps


def _adam(name: str, shapes: list[tuple[int, ...]], **more: Any) -> Case:
    return Case(name, fastopt.Adam, torch.optim.Adam, shapes, words=7, kwargs={"lr": 1e-4}, **more)


def _sgd(name: str, shapes: list[tuple[int, ...]], **kwargs: Any) -> Case:
    return Case(name, fastopt.SGD, torch.optim.SGD, shapes, 5, {"lr": 1e-4, "momentum": 0.9, **kwargs})


CASES = [
    _adam("Adam, one tensor of 16M", [(1 << 24,)]),
    _adam("Adam, one tensor of 1M", [(1 << 20,)]),
    _adam("Adam, one tensor of 128k", [(1 << 17,)]),
    _adam("Adam, 1000 tensors of 1k", [(1000,)] * 1000),
    _adam("Adam, MLP of 10 parameters", MLP),
    Case("AdamW, one tensor of 128k", fastopt.AdamW, torch.optim.AdamW, [(1 << 17,)], 7),
    _adam("Adam bfloat16, one tensor of 1M", [(1 << 20,)], dtype=torch.bfloat16, quick=False),
    _adam("Adam float16, one tensor of 1M", [(1 << 20,)], dtype=torch.float16, quick=False),
    _adam("Adam float64, one tensor of 1M", [(1 << 20,)], dtype=torch.float64, quick=False),
    _sgd("SGD momentum, one tensor of 16M", [(1 << 24,)]),
    _sgd("SGD Nesterov, one tensor of 16M", [(1 << 24,)], nesterov=True),
    _sgd("SGD momentum, one tensor of 128k", [(1 << 17,)]),
    _sgd("SGD momentum, MLP of 10 parameters", MLP),
]
