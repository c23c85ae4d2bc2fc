"""The optimizers that are measured: one description per case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import fastopt

from .case import Case, Floor, Maker, Peers, Tensors
from .measure import Burst
from .peers import clipped, on_cuda_alone, variants
from .stream import Stream

Shape = tuple[int, ...]
MLP: list[Shape] = [(32, 64), (32,), (32, 32), (32,), (32, 32), (32,), (32, 32), (32,), (10, 32), (10,)]
N = {"128k": 1 << 17, "1M": 1 << 20, "16M": 1 << 24, "64M": 1 << 26}
SMALL: list[Shape] = [(1000,)] * 1000
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


@dataclass(frozen=True)
class Rule:
    """An optimizer with one set of flags."""

    optimizer: str
    states: int  # of the parameter's size
    kwargs: dict[str, Any] = field(default_factory=dict)
    package: str = "torch.optim"  # where its rival is
    words: int = 0  # read and written per element; 0: parameter 2, gradient 1, each state 2
    loop: str = ""  # of stream.c, with the same traffic, where it is not the one for ``states``


ELEMENTWISE = {
    "Adam": Rule("Adam", 2),
    "AdamW": Rule("AdamW", 2),
    "SGD momentum": Rule("SGD", 1, {"momentum": 0.9}),
    "SGD Nesterov": Rule("SGD", 1, {"momentum": 0.9, "nesterov": True}),
    "RMSprop": Rule("RMSprop", 1),
    "RMSprop centered, momentum": Rule("RMSprop", 3, {"centered": True, "momentum": 0.9}),
    "Adagrad": Rule("Adagrad", 1),
    "Adadelta": Rule("Adadelta", 2),
    "Adamax": Rule("Adamax", 2),
    "NAdam": Rule("NAdam", 2),
    "RAdam": Rule("RAdam", 2),
    "Rprop": Rule("Rprop", 2),
    "ASGD": Rule("ASGD", 1),
    "AdaBound": Rule("AdaBound", 2, package="adabound"),
    "Lion": Rule("Lion", 1, package="optimi"),
}
# Adafactor has three passes: parameter and gradient; gradient; both, and the parameter is written.
RULES = {**ELEMENTWISE, "Adafactor": Rule("Adafactor", 0, words=6, loop="adafactor")}


def _described(
    name: str,
    rule: Rule,
    ours: Maker,
    rival: str,
    peers: Peers,
    shapes: Sequence[Shape],
    dtype: torch.dtype = torch.float32,
    quick: bool = False,
) -> Case:
    """One optimizer on one list of parameters."""
    elements = sum(torch.Size(shape).numel() for shape in shapes)
    is_streamed = len(shapes) == 1 and elements >= STREAMED and dtype == torch.float32
    return Case(
        name,
        lambda: _params(shapes, dtype),
        ours,
        rival,
        peers,
        elements * (rule.words or 3 + 2 * rule.states) * dtype.itemsize,
        _streamed(rule.loop or f"stream{rule.states}", elements, 2 + rule.states) if is_streamed else None,
        quick,
    )


def _case(
    name: str,
    where: str,
    shapes: Sequence[Shape],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quick: bool = False,
) -> Case:
    """One of ``RULES`` on a list of parameters that is called ``where``."""
    rule = RULES[name]
    kwargs = {"lr": 1e-4, **rule.kwargs}
    ours, rival = getattr(fastopt, rule.optimizer), f"{rule.package}.{rule.optimizer}"
    peers = variants(rival, **kwargs)
    if device == "cuda":
        peers |= on_cuda_alone(rule.optimizer, **kwargs)
    kind = "" if dtype == torch.float32 else f" {dtype}".replace("torch.", "")
    return _described(
        f"{name}{kind}, {where}", rule, lambda p: ours(p, **kwargs).step, rival, peers, shapes, dtype, quick
    )


def _one(name: str, size: str, **more: Any) -> Case:
    return _case(name, f"one tensor of {size}", [(N[size],)], **more)


def _adafactor(rows: int, **more: Any) -> Case:
    return _case("Adafactor", f"one matrix of {rows} x {rows}", [(rows, rows)], **more)


def _clip(model: str, shapes: Sequence[Shape], ways: Sequence[str], quick: bool = False) -> Case:
    """Clipping reads the gradients once more. Every way of theirs has a copy of the model: few for a large one."""
    kwargs: dict[str, Any] = {"lr": 1e-4}
    rival = "torch.optim.AdamW"
    peers = {name: make for name, make in variants(rival, **kwargs).items() if name in ways}
    return _described(
        f"clip + AdamW, {len(shapes)} tensors, {model}",
        replace(RULES["AdamW"], words=8),
        lambda p: fastopt.AdamW(p, max_grad_norm=1.0, **kwargs).step,
        rival,
        clipped(peers, 1.0),
        shapes,
        quick=quick,
    )


def on_cpu() -> list[Case]:
    return [
        _one("Adam", "16M", quick=True),
        _one("Adam", "1M", quick=True),
        _one("Adam", "128k", quick=True),
        _case("Adam", "1000 tensors of 1k", SMALL, quick=True),
        _case("Adam", "MLP of 10 parameters", MLP, quick=True),
        _one("AdamW", "128k", quick=True),
        *[_one("Adam", "1M", dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)],
        _one("SGD momentum", "16M", quick=True),
        _one("SGD Nesterov", "16M"),
        _one("SGD momentum", "128k", quick=True),
        _case("SGD momentum", "MLP of 10 parameters", MLP, quick=True),
        *[_one(rule, "16M") for rule in ("RMSprop", "RMSprop centered, momentum", "Adagrad", "Adadelta", "Adamax")],
        _one("NAdam", "16M"),
        _one("NAdam", "1M", quick=True),
        *[_one(rule, "16M") for rule in ("RAdam", "Rprop", "ASGD", "AdaBound", "Lion")],
        _adafactor(4096),
        _adafactor(1024, quick=True),
        _clip("GPT-2 small", _gpt2(768, 50257, 1024), ["torch fused"]),
        _clip("of width 192", _gpt2(192, 8192, 256), ["torch default", "torch fused"], quick=True),
    ]


def on_cuda() -> list[Case]:
    """The same rules on as much as a GPU takes to be busy, and on what its launches take longer for than its memory."""
    return [
        *[_one(rule, "64M", device="cuda", quick=rule == "Adam") for rule in ELEMENTWISE],
        *[_one(rule, "64M", device="cuda", dtype=torch.bfloat16) for rule in ELEMENTWISE],
        *[_one("Adam", "64M", device="cuda", dtype=dtype) for dtype in (torch.float16, torch.float64)],
        _one("Adam", "1M", device="cuda", quick=True),
        *[_case(rule, "1000 tensors of 1k", SMALL, device="cuda", quick=True) for rule in ("Adam", "SGD momentum")],
        *[_case(rule, "MLP of 10 parameters", MLP, device="cuda", quick=True) for rule in ("Adam", "SGD momentum")],
        _adafactor(8192),
        _adafactor(1024, quick=True),
        _clip("GPT-2 small", _gpt2(768, 50257, 1024), ["torch default", "torch foreach", "torch fused"], quick=True),
    ]
