"""The dropout family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

import fastopt.nn.functional

from .agreement import moments
from .functions import NAMES, Function, Functions, Way, backward, forward, forward_and_backward, moved, stepped
from .operation import Case, Input, Operation, Tensors, Traffic

N = {"1k": 1 << 10, "64k": 1 << 16, "1M": 1 << 20, "4M": 1 << 22, "16M": 1 << 24, "64M": 1 << 26}
dropout = torch.nn.functional.dropout

# torch has no single function for these: they are composed as users of torch write them.
COMPOSED: dict[str, Function] = {
    "dropout_add": lambda x, r, **how: r + dropout(x, **how),
    "bias_dropout_add": lambda x, b, r, **how: r + dropout(x + b, **how),
}


def functions(name: str, **kwargs: Any) -> Functions:
    """Our function of that name and torch's, with all arguments except the tensors."""
    theirs = COMPOSED.get(name) or getattr(torch.nn.functional, name)
    both = {"fastopt": getattr(fastopt.nn.functional, name), "torch default": theirs}
    return {who: partial(function, p=0.1, training=True, **kwargs) for who, function in both.items()}


def tensors_for(name: str, input: Input, requires_grad: bool) -> Tensors:
    """The arguments of the function of that name, input first."""
    (shape,) = input.shapes
    more = {"dropout_add": [shape], "bias_dropout_add": [shape[-1:], shape]}.get(name, [])
    plain = [torch.randn(each).to(input.dtype).contiguous(memory_format=input.layout) for each in (shape, *more)]
    return [tensor.requires_grad_(requires_grad) for tensor in plain]


def operation(name: str, way: Way = forward, *, graph: bool = False, inplace: bool = False) -> Operation:
    """One function. In place, all elements soon become 0 or infinite: that does not change the time.

    Args:
        graph: whether a pass that is forward only also prepares for a backward pass.
    """
    both = functions(name, **({"inplace": True} if inplace else {}))

    def traffic(tensors: Tensors) -> Traffic:
        maps = 2 if name in COMPOSED else 1
        return moved(maps, way, tensors[0].nbytes, grads=1, kept=False, inplace=inplace)

    return stepped(
        "dropout",
        f"{name}{NAMES[way]}{' in place' if inplace else ''}{' with graph' if graph else ''}",
        both,
        way,
        tensors=lambda input: tensors_for(name, input, graph or way is not forward),
        traffic=traffic,
        agreement=moments(spatial=name == "dropout2d"),
    )


DROPOUT, IN_PLACE = operation("dropout"), operation("dropout", inplace=True)
BACKWARD, BOTH = operation("dropout", backward), operation("dropout", forward_and_backward)
WITH_GRAPH = operation("dropout", graph=True)
DROPOUT2D, ALPHA = operation("dropout2d"), operation("alpha_dropout")
ADD = operation("dropout_add", forward_and_backward)
BIAS_ADD = operation("bias_dropout_add", forward_and_backward)
OPERATIONS = (DROPOUT, IN_PLACE, BACKWARD, BOTH, WITH_GRAPH, DROPOUT2D, ALPHA, ADD, BIAS_ADD)


def _sized(what: Operation, *sizes: str, dtype: torch.dtype = torch.float32) -> list[Case]:
    """Cases by size; the small ones are part of the smoke test."""
    kind = "" if dtype == torch.float32 else f" {dtype}".replace("torch.", "")
    inputs = [Input(f"{size}{kind}", ((N[size],),), dtype) for size in sizes]
    return [Case(what, input, quick=input.elements <= N["1M"]) for input in inputs]


def _images(what: Operation, count: int) -> list[Case]:
    shapes = ((count, 64, 112, 112),)
    layouts = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    return [Case(what, Input(f"{count}x64x112x112 {name}", shapes, layout=layout)) for name, layout in layouts.items()]


def _added(rows: Sequence[int]) -> list[Case]:
    inputs = [Input(f"{n}x2048", ((n, 2048),)) for n in rows]
    return [Case(what, input, quick=input.elements <= N["1M"]) for what in (ADD, BIAS_ADD) for input in inputs]


def _cases(large: str, double: str, rows: int, images: int) -> list[Case]:
    """Cases of a large size, of a size for float64, of rows that stand for activations, and of images."""
    return [
        *_sized(DROPOUT, large, "1M", "64k", "1k"),
        *_sized(IN_PLACE, large, "1M"),
        *_sized(BACKWARD, large, "1M"),
        *_sized(DROPOUT, large, "1M", dtype=torch.bfloat16),
        *_sized(IN_PLACE, large, dtype=torch.bfloat16),
        *_sized(DROPOUT, large, dtype=torch.float16),
        *_sized(DROPOUT, double, dtype=torch.float64),
        *_images(DROPOUT, images),
        *_images(DROPOUT2D, images),
        *_sized(ALPHA, large, "1M"),
        *_added([rows, 512]),
        *_sized(WITH_GRAPH, "1k"),
        *_sized(BOTH, "1M", "1k"),
    ]


def on_cpu() -> list[Case]:
    return _cases("16M", "4M", 8192, 32)


def on_cuda() -> list[Case]:
    return _cases("64M", "16M", 32768, 128)
