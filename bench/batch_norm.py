"""Batch normalization, alone and with what follows it."""

from __future__ import annotations

from functools import partial

import torch

import fastopt.nn.functional

from .agreement import within
from .functions import NAMES, Function, Functions, Way, backward, forward, forward_and_backward, moved, stepped
from .operation import Case, Input, Operation, Tensors, Traffic

ours: Function = fastopt.nn.functional.batch_norm
theirs: Function = torch.nn.functional.batch_norm

LAYOUTS = {"": torch.contiguous_format, "NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
QUICK = 1 << 22  # elements: cases up to this size are part of the smoke test


def _activated(name: str) -> Functions:
    activate = getattr(torch.nn.functional, name)
    return {
        "fastopt": partial(ours, activation=name),
        "torch default": lambda *tensors, **how: activate(theirs(*tensors, **how)),
    }


# What follows decides. torch has no single function for the pair: these are the usual two calls, and the in-place ones
# of torchvision's ResNets.
FUNCTIONS: dict[str, Functions] = {
    "": {"fastopt": ours, "torch default": theirs},
    "relu": {
        **_activated("relu"),
        "torch in place": lambda *tensors, **how: torch.relu_(theirs(*tensors, **how)),
    },
    "add relu": {
        "fastopt": lambda x, r, *rest, **how: ours(x, *rest, residual=r, activation="relu", **how),
        "torch default": lambda x, r, *rest, **how: torch.relu(theirs(x, *rest, **how) + r),
        "torch in place": lambda x, r, *rest, **how: torch.relu_(theirs(x, *rest, **how).add_(r)),
    },
    "gelu": _activated("gelu"),
    "silu": _activated("silu"),
}


def functions(then: str, training: bool = True) -> Functions:
    """Batch normalization and what follows it, with all arguments but the tensors."""
    return {who: partial(function, training=training) for who, function in FUNCTIONS[then].items()}


def tensors_for(then: str, input: Input, requires_grad: bool) -> Tensors:
    """The functions' arguments: input, residual where one is added, running statistics, weight, bias."""
    (shape,) = input.shapes
    count = 1 + ("add" in then)
    maps = [torch.randn(shape).to(input.dtype).contiguous(memory_format=input.layout) for _ in range(count)]
    running = [torch.zeros(shape[1]), torch.ones(shape[1])]
    parameters = [torch.rand(shape[1]), torch.randn(shape[1])]
    for tensor in (*maps, *parameters):
        tensor.requires_grad_(requires_grad)
    return [*maps, *running, *parameters]


def operation(way: Way = forward, *, then: str = "", training: bool = True, graph: bool = False) -> Operation:
    """An operation whose traffic counts inputs and results once, as if each channel stayed in a cache.

    Args:
        then: what follows; a key of ``FUNCTIONS``.
        graph: whether a pass that is forward only also prepares for a backward pass.
    """
    maps = 1 + ("add" in then)

    def traffic(tensors: Tensors) -> Traffic:
        return moved(maps, way, tensors[0].nbytes, grads=maps, kept=True)

    parts = ("batch_norm", then, "" if training else "eval")
    return stepped(
        "batch_norm",
        f"{' '.join(filter(None, parts))}{NAMES[way]}{' with graph' if graph else ''}",
        functions(then, training),
        way,
        tensors=lambda input: tensors_for(then, input, graph or way is not forward),
        traffic=traffic,
        agreement=within(1e-2),  # the sign of a value near 0 decides a ReLU's gradient
    )


PLAIN, BACKWARD, BOTH = operation(), operation(backward), operation(forward_and_backward)
WITH_GRAPH = operation(graph=True)
EVAL = {then: operation(then=then, training=False) for then in ("", "relu")}
FUSED = {then: operation(forward_and_backward, then=then) for then in ("relu", "add relu", "gelu", "silu")}
OPERATIONS = (PLAIN, BACKWARD, BOTH, WITH_GRAPH, *EVAL.values(), *FUSED.values())


def input_of(text: str, dtype: torch.dtype = torch.float32) -> Input:
    """Parses text such as ``32x64x56x56 NHWC``."""
    size, _, layout = text.partition(" ")
    kind = "" if dtype == torch.float32 else f" {dtype}".replace("torch.", "")
    return Input(text + kind, (tuple(map(int, size.split("x"))),), dtype, LAYOUTS[layout])


def _case(what: Operation, text: str, dtype: torch.dtype = torch.float32) -> Case:
    input = input_of(text, dtype)
    return Case(what, input, quick=input.elements <= QUICK)


def _cases(images: list[str], rows: str) -> list[Case]:
    """Cases of the large inputs given, and of one input without images."""
    plain, fused = [*images, rows, "32x64"], [*images[:5], rows]
    half = [images[0], images[1], images[4], rows]
    return [
        *[_case(what, text) for what in (PLAIN, BACKWARD) for text in plain],
        _case(PLAIN, "32x64x8x8 NCHW"),
        *[_case(FUSED[then], text) for then in ("relu", "add relu") for text in fused],
        *[_case(FUSED[then], images[2]) for then in ("gelu", "silu")],
        *[_case(what, text) for what in EVAL.values() for text in images[:2]],
        *[_case(what, text, torch.bfloat16) for what in (PLAIN, BACKWARD) for text in half],
        *[_case(what, images[0], torch.float16) for what in (PLAIN, BACKWARD)],
        _case(WITH_GRAPH, "32x64"),
        *[_case(BOTH, text) for text in ("32x64", "32x64x8x8 NCHW")],
    ]


def _with_layouts(*sizes: str) -> list[str]:
    return [f"{size} {layout}" for size in sizes for layout in ("NCHW", "NHWC")]


def on_cpu() -> list[Case]:
    return _cases(_with_layouts("32x64x56x56", "32x256x28x28", "128x512x7x7"), "4096x1024")


def on_cuda() -> list[Case]:
    """Cases with as many images as a GPU takes at a time, and channels-last ones in bfloat16, as GPUs train."""
    images = _with_layouts("256x64x56x56", "256x256x28x28", "1024x512x7x7")
    fused = [_case(FUSED[then], images[1], torch.bfloat16) for then in ("relu", "add relu")]
    return [*_cases(images, "65536x1024"), *fused]
