"""What is measured: one description per case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import fastopt

from .measure import Burst, repeated
from .peers import Maker, Params, Peers, clipped, variants
from .stream import Stream

Shape = tuple[int, ...]
MLP: list[Shape] = [(32, 64), (32,), (32, 32), (32,), (32, 32), (32,), (32, 32), (32,), (10, 32), (10,)]
STREAMED = 1 << 20  # elements from which on "x stream" is about memory and not about caches and calls


def _gpt2(width: int, vocabulary: int, context: int) -> list[Shape]:
    """The 148 parameters of a GPT-2 of 12 layers."""
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp: list[Shape] = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(vocabulary, width), (context, width), *[*norm, *attention, *norm, *mlp] * 12, *norm]


@dataclass(frozen=True)
class Case:
    """One optimizer on one list of parameters, beside the other implementations of it."""

    name: str
    ours: Maker
    rival: str  # the class it is compared with
    peers: Peers  # how that can be run here; empty where it is not installed
    shapes: Sequence[Shape]
    words: int  # read and written per element: parameter 2, gradient 1, each state 2
    loop: str  # of stream.c, with the same traffic
    states: int  # of the parameter's size
    dtype: torch.dtype = torch.float32
    quick: bool = True  # part of --quick

    @property
    def elements(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def bytes(self) -> int:
        return self.elements * self.words * self.dtype.itemsize

    @property
    def streamed(self) -> bool:
        return len(self.shapes) == 1 and self.elements >= STREAMED and self.dtype == torch.float32

    def bursts(self, stream: Stream | None) -> dict[str, Burst]:
        """Each competitor, ours first, on tensors of its own."""
        makers = {"fastopt": self.ours, **self.peers}
        found = {name: repeated(make(self._params())) for name, make in makers.items()}
        if stream is not None and self.streamed:
            arrays = [torch.randn(self.elements) for _ in range(2 + self.states)]
            found["stream"] = stream.bursts(self.loop, arrays)
        return found

    def _params(self) -> Params:
        params = [torch.randn(shape).to(self.dtype).requires_grad_() for shape in self.shapes]
        for param in params:
            param.grad = torch.randn(param.shape).to(self.dtype)
        return params


def _case(
    name: str,
    optimizer: str,
    shapes: Sequence[Shape],
    states: int,
    *,
    package: str = "torch.optim",
    kwargs: dict[str, Any] | None = None,
    **more: Any,
) -> Case:
    kwargs = {"lr": 1e-4, **(kwargs or {})}
    ours, rival = getattr(fastopt, optimizer), f"{package}.{optimizer}"
    described = {"words": 3 + 2 * states, "loop": f"stream{states}", "states": states, **more}
    return Case(name, lambda p: ours(p, **kwargs).step, rival, variants(rival, **kwargs), shapes, **described)


def _adam(name: str, shapes: Sequence[Shape], **more: Any) -> Case:
    return _case(f"Adam{name}", "Adam", shapes, 2, **more)


def _sgd(name: str, shapes: Sequence[Shape], *, nesterov: bool = False, **more: Any) -> Case:
    return _case(f"SGD {name}", "SGD", shapes, 1, kwargs={"momentum": 0.9, "nesterov": nesterov}, **more)


def _large(optimizer: str, states: int, *, flags: str = "", quick: bool = False, **more: Any) -> list[Case]:
    """One tensor of 16M; and, in the smoke test, of 1M."""
    sizes = {"16M": 1 << 24, **({"1M": 1 << 20} if quick else {})}
    return [
        _case(f"{optimizer}{flags}, one tensor of {size}", optimizer, [(n,)], states, quick=size == "1M", **more)
        for size, n in sizes.items()
    ]


def _adafactor(rows: int, **more: Any) -> Case:
    """Three passes: parameter and gradient; gradient; both, and the parameter is written."""
    shapes = [(rows, rows)]
    return _case(f"Adafactor, one matrix of {rows} x {rows}", "Adafactor", shapes, 0, words=6, loop="adafactor", **more)


def _clip(model: str, shapes: Sequence[Shape], ways: Sequence[str], **more: Any) -> Case:
    """Clipping reads the gradients once more. Every way of theirs has a copy of the model: few for a large one."""
    kwargs: dict[str, Any] = {"lr": 1e-4}
    rival = "torch.optim.AdamW"
    peers = {name: make for name, make in variants(rival, **kwargs).items() if name in ways}
    return Case(
        f"clip + AdamW, {len(shapes)} tensors, {model}",
        lambda p: fastopt.AdamW(p, max_grad_norm=1.0, **kwargs).step,
        rival,
        clipped(peers, 1.0),
        shapes,
        words=8,
        loop="",
        states=2,
        **more,
    )


CASES = [
    _adam(", one tensor of 16M", [(1 << 24,)]),
    _adam(", one tensor of 1M", [(1 << 20,)]),
    _adam(", one tensor of 128k", [(1 << 17,)]),
    _adam(", 1000 tensors of 1k", [(1000,)] * 1000),
    _adam(", MLP of 10 parameters", MLP),
    _case("AdamW, one tensor of 128k", "AdamW", [(1 << 17,)], 2),
    _adam(" bfloat16, one tensor of 1M", [(1 << 20,)], dtype=torch.bfloat16, quick=False),
    _adam(" float16, one tensor of 1M", [(1 << 20,)], dtype=torch.float16, quick=False),
    _adam(" float64, one tensor of 1M", [(1 << 20,)], dtype=torch.float64, quick=False),
    _sgd("momentum, one tensor of 16M", [(1 << 24,)]),
    _sgd("Nesterov, one tensor of 16M", [(1 << 24,)], nesterov=True, quick=False),
    _sgd("momentum, one tensor of 128k", [(1 << 17,)]),
    _sgd("momentum, MLP of 10 parameters", MLP),
    *_large("RMSprop", 1),
    *_large("RMSprop", 3, flags=" centered, momentum", kwargs={"centered": True, "momentum": 0.9}),
    *_large("Adagrad", 1),
    *_large("Adadelta", 2),
    *_large("Adamax", 2),
    *_large("NAdam", 2, quick=True),
    *_large("RAdam", 2),
    *_large("Rprop", 2),
    *_large("ASGD", 1),
    *_large("AdaBound", 2, package="adabound"),
    *_large("Lion", 1, package="optimi"),
    _adafactor(4096, quick=False),
    _adafactor(1024),
    _clip("GPT-2 small", _gpt2(768, 50257, 1024), ["torch fused"], quick=False),
    _clip("of width 192", _gpt2(192, 8192, 256), ["torch default", "torch fused"]),
]
