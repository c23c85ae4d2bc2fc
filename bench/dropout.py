"""The dropout family: one description per case."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import fastopt.nn.functional

from .case import Case, Tensors
from .functions import Competitors, Function, Shape, Way, backward, case, forward, forward_and_backward

N = {"1k": 1 << 10, "64k": 1 << 16, "1M": 1 << 20, "4M": 1 << 22, "16M": 1 << 24, "64M": 1 << 26}
IMAGES = (32, 64, 112, 112)  # 26M
dropout = torch.nn.functional.dropout

# What torch has no single function for, as it is written there.
COMPOSED: dict[str, Function] = {
    "dropout_add": lambda x, r, **how: r + dropout(x, **how),
    "bias_dropout_add": lambda x, b, r, **how: r + dropout(x + b, **how),
}


def competitors(name: str, **kwargs: Any) -> Competitors:
    """Our function of that name, then torch's, with all arguments but the tensors."""
    theirs = COMPOSED.get(name) or getattr(torch.nn.functional, name)
    functions = {"fastopt": getattr(fastopt.nn.functional, name), "torch default": theirs}
    return {who: partial(function, p=0.1, training=True, **kwargs) for who, function in functions.items()}


def tensors_for(
    name: str,
    shape: Shape,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    requires_grad: bool = False,
) -> Tensors:
    """What the function of that name takes, input first."""
    more = {"dropout_add": [shape], "bias_dropout_add": [shape[-1:], shape]}.get(name, [])
    plain = [torch.randn(each).to(dtype).contiguous(memory_format=layout) for each in (shape, *more)]
    return [tensor.requires_grad_(requires_grad) for tensor in plain]


def _case(
    name: str,
    function: str,
    shape: Shape,
    *,
    step: Way = forward,
    graph: bool = False,
    words: int = 2,
    floor: str | None = "clone",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    quick: bool = False,
    **kwargs: Any,
) -> Case:
    """One function on an input of ``shape``. In place, all elements soon are 0 or NaN: the time is the same.

    Args:
        graph: whether a mere forward pass prepares for a backward one, too.
        words: read and written per element: here one tensor each.
        floor: a name in ``functions.FLOORS``.
        kwargs: of the function.
    """
    return case(
        name,
        competitors(function, **kwargs),
        partial(tensors_for, function, shape, dtype, layout, graph or step is not forward),
        step,
        torch.Size(shape).numel() * words * dtype.itemsize,
        floor,
        quick,
    )


def _sized(what: str, *sizes: str, **more: Any) -> list[Case]:
    """The function named first in ``what``, by size; small ones are in the smoke test."""
    function = what.split()[0]
    return [_case(f"{what}, {size}", function, (N[size],), quick=N[size] <= N["1M"], **more) for size in sizes]


def _images(function: str) -> list[Case]:
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    return [_case(f"{function} {name}, 26M", function, IMAGES, layout=layout) for name, layout in layouts.items()]


def _added(function: str, rows: int, columns: int, **more: Any) -> Case:
    """Read: input, residual, gradient; written: result, gradient. The residual's gradient is the one that comes."""
    name = f"{function} forward + backward, {rows} x {columns}"
    return _case(name, function, (rows, columns), step=forward_and_backward, words=5, floor=None, **more)


def _dropouts(large: str, double: str, rows: int) -> list[Case]:
    """By the size of what is large, that of float64, and the rows of 2048 that stand for activations."""
    return [
        *_sized("dropout", large, "1M"),
        *_sized("dropout in place", large, "1M", inplace=True, floor="copy_"),
        *_sized("dropout backward", large, "1M", step=backward),
        *_sized("dropout bfloat16", large, "1M", dtype=torch.bfloat16),
        *_sized("dropout bfloat16 in place", large, dtype=torch.bfloat16, inplace=True, floor="copy_"),
        *_sized("dropout float16", large, dtype=torch.float16),
        *_sized("dropout float64", double, dtype=torch.float64),
        *_images("dropout"),
        *_images("dropout2d"),
        *_sized("alpha_dropout", large, "1M"),
        _added("dropout_add", rows, 2048),
        _added("dropout_add", 512, 2048, quick=True),
        _added("bias_dropout_add", rows, 2048),
        _added("bias_dropout_add", 512, 2048, quick=True),
        *_sized("dropout", "64k", "1k"),
        *_sized("dropout with graph", "1k", graph=True),
        *_sized("dropout forward + backward", "1k", step=forward_and_backward, words=4, floor=None),
    ]


def on_cpu() -> list[Case]:
    return _dropouts("16M", "4M", 8192)


def on_cuda() -> list[Case]:
    return _dropouts("64M", "16M", 32768)
