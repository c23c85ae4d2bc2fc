"""Batch normalization, alone and with what follows it: one description per case."""

from __future__ import annotations

from functools import partial

import torch

import fastopt.nn.functional

from .case import Case, Tensors
from .functions import Competitors, Function, Shape, Way, backward, case, forward, forward_and_backward

ours: Function = fastopt.nn.functional.batch_norm
theirs: Function = torch.nn.functional.batch_norm

LAYOUTS = {"": torch.contiguous_format, "NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
STEPS = {forward: ("", 2), backward: ("backward", 3), forward_and_backward: ("forward + backward", 4)}  # name, words
QUICK = 1 << 22  # elements up to which a case is in the smoke test


def _activated(name: str) -> Competitors:
    activate = getattr(torch.nn.functional, name)
    return {
        "fastopt": partial(ours, activation=name),
        "torch default": lambda *tensors, **how: activate(theirs(*tensors, **how)),
    }


# By what follows. torch has no single function for it: as it is written there, in place as in torchvision's ResNets.
COMPETITORS: dict[str, Competitors] = {
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


def competitors(then: str, training: bool = True) -> Competitors:
    """Batch normalization and what follows it, with all arguments but the tensors."""
    return {who: partial(function, training=training) for who, function in COMPETITORS[then].items()}


def tensors_for(
    then: str,
    shape: Shape,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    requires_grad: bool = False,
) -> Tensors:
    """What the functions take: input, residual where one is added, running statistics, weight, bias."""
    maps = [torch.randn(shape).to(dtype).contiguous(memory_format=layout) for _ in range(1 + ("add" in then))]
    running = [torch.zeros(shape[1]), torch.ones(shape[1])]
    parameters = [torch.rand(shape[1]), torch.randn(shape[1])]
    for tensor in (*maps, *parameters):
        tensor.requires_grad_(requires_grad)
    return [*maps, *running, *parameters]


def _case(
    input: str,
    step: Way = forward,
    *,
    then: str = "",
    training: bool = True,
    graph: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """On an input such as ``32x64x56x56 NCHW``. Bytes: inputs and outputs once, as where a channel stays in a cache.

    Args:
        step: one of ``STEPS``.
        then: what follows: one of ``COMPETITORS``.
        graph: whether a mere forward pass prepares for a backward one, too.
    """
    size, _, layout = input.partition(" ")
    shape = tuple(map(int, size.split("x")))
    step_name, words = STEPS[step]
    words += 2 * ("add" in then)  # the residual, its gradient
    type_name = "" if dtype == torch.float32 else str(dtype).removeprefix("torch.")
    parts = [then, "" if training else "eval", type_name, step_name, "with graph" if graph else "", input]
    elements = torch.Size(shape).numel()
    return case(
        " ".join(["batch_norm", *filter(None, parts)]),
        competitors(then, training),
        partial(tensors_for, then, shape, dtype, LAYOUTS[layout], graph or step is not forward),
        step,
        elements * words * dtype.itemsize,
        "clone" if step is forward else None,
        elements <= QUICK,
    )


def _with_layouts(*sizes: str) -> list[str]:
    return [f"{size} {layout}" for size in sizes for layout in ("NCHW", "NHWC")]


def _batch_norms(images: list[str], rows: str) -> list[Case]:
    """By the inputs that are large, and the one that has no images."""
    plain, fused = [*images, rows, "32x64"], [*images[:5], rows]
    return [
        *[_case(input) for input in plain],
        *[_case(input, backward) for input in plain],
        *[_case(input, forward_and_backward, then=then) for then in ("relu", "add relu") for input in fused],
        *[_case(images[2], forward_and_backward, then=then) for then in ("gelu", "silu")],
        *[_case(input, then=then, training=False) for then in ("", "relu") for input in images[:2]],
        *[_case(images[0], step, dtype=torch.bfloat16) for step in (forward, backward)],
        _case("32x64", graph=True),
        *[_case(input, forward_and_backward) for input in ("32x64", "32x64x8x8 NCHW")],
    ]


def on_cpu() -> list[Case]:
    images = _with_layouts("32x64x56x56", "32x256x28x28", "128x512x7x7")
    return _batch_norms(images, "4096x1024")


def on_cuda() -> list[Case]:
    """As many images as a GPU takes at a time; channels-last in bfloat16, as they train there."""
    images = _with_layouts("256x64x56x56", "256x256x28x28", "1024x512x7x7")
    half = [(forward, ""), (backward, ""), *[(forward_and_backward, then) for then in ("relu", "add relu")]]
    return [
        *_batch_norms(images, "65536x1024"),
        *[_case(images[1], step, then=then, dtype=torch.bfloat16) for step, then in half],
    ]
