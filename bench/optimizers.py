"""The optimizers that are measured: one description per case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import fastopt

from .case import Case, Floor, Maker, Peers, Tensors
from .measure import Burst
from .peers import clipped, variants
from .stream import Stream

Shape = tuple[int, ...]
MLP: list[Shape] = [(32, 64), (32,), (32, 32), (32,), (32, 32), (32,), (32, 32), (32,), (10, 32), (10,)]
STREAMED = 1 << 20  # elements from which on the stream is about memory and not about caches and calls


def _gpt2(width: int, vocabulary: int, context: int) -> list[Shape]:
    """The 148 parameters of a GPT-2 of 12 layers."""
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp: list[Shape] = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(vocabulary, width), (context, width), *[*norm, *attention, *norm, *mlp] * 12, *norm]


def _params(shapes: Sequence[Shape], dtype: torch.dtype) -> Tensors:
    params = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    for param in params:
        param.grad = torch.randn(param.shape).to(dtype)
    return params


def _streamed(loop: str, elements: int, arrays: int) -> Floor:
    def burst(stream: Stream | None) -> Burst | None:
        return stream and stream.bursts(loop, [torch.randn(elements) for _ in range(arrays)])

    return Floor("stream", burst)


def _described(
    name: str,
    ours: Maker,
    rival: str,
    peers: Peers,
    shapes: Sequence[Shape],
    states: int,
    *,
    words: int = 0,
    loop: str = "",
    dtype: torch.dtype = torch.float32,
    quick: bool = True,
) -> Case:
    """One optimizer on one list of parameters.

    Args:
        states: of the parameter's size.
        words: read and written per element; 0 for parameter 2, gradient 1, each state 2.
        loop: of stream.c, with the same traffic, where it is not the one for ``states``.
    """
    elements = sum(torch.Size(shape).numel() for shape in shapes)
    is_streamed = len(shapes) == 1 and elements >= STREAMED and dtype == torch.float32
    return Case(
        name,
        lambda: _params(shapes, dtype),
        ours,
        rival,
        peers,
        elements * (words or 3 + 2 * states) * dtype.itemsize,
        _streamed(loop or f"stream{states}", elements, 2 + states) if is_streamed else None,
        quick,
    )


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
    peers = variants(rival, **kwargs)
    return _described(name, lambda p: ours(p, **kwargs).step, rival, peers, shapes, states, **more)


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
    return _described(
        f"clip + AdamW, {len(shapes)} tensors, {model}",
        lambda p: fastopt.AdamW(p, max_grad_norm=1.0, **kwargs).step,
        rival,
        clipped(peers, 1.0),
        shapes,
        states=2,
        words=8,
        **more,
    )


OPTIMIZERS = [
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
