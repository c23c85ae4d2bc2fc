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
IMAGES = [f"{size} {layout}" for size in ("32x64x56x56", "32x256x28x28", "128x512x7x7") for layout in ("NCHW", "NHWC")]
PLAIN = [*IMAGES, "4096x1024", "32x64"]
FUSED = [*IMAGES[:5], "4096x1024"]
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
    """On an input described as in ``PLAIN``. Bytes: inputs and outputs once, as where a channel stays in a cache.

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


BATCH_NORMS = [
    *[_case(input) for input in PLAIN],
    *[_case(input, backward) for input in PLAIN],
    *[_case(input, forward_and_backward, then=then) for then in ("relu", "add relu") for input in FUSED],
    *[_case("32x256x28x28 NCHW", forward_and_backward, then=then) for then in ("gelu", "silu")],
    *[_case(input, then=then, training=False) for then in ("", "relu") for input in IMAGES[:2]],
    *[_case("32x64x56x56 NCHW", step, dtype=torch.bfloat16) for step in (forward, backward)],
    _case("32x64", graph=True),
    *[_case(input, forward_and_backward) for input in ("32x64", "32x64x8x8 NCHW")],
]
