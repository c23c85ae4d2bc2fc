"""RMSNorm, LayerNorm, GroupNorm and InstanceNorm."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import fastopt.nn.functional as ours

from .agreement import within
from .batch_norm import QUICK, input_of
from .functions import NAMES, Functions, Way, backward, forward, forward_and_backward, moved, stepped
from .operation import Case, Input, Operation, Tensors, Traffic

GROUPS = 32

Norm = Callable[..., Tensor]


def _rows(norm: Norm) -> Norm:
    """Calls a norm of rows, whose weights are as long as a row."""
    return lambda x, weight, *bias: norm(x, weight.shape, weight, *bias)


def _both(norm: str, call: Callable[[Norm], Norm]) -> Functions:
    return {"fastopt": call(getattr(ours, norm)), "torch default": call(getattr(F, norm))}


FUNCTIONS: dict[str, Functions] = {
    "rms_norm": _both("rms_norm", _rows),
    "layer_norm": _both("layer_norm", _rows),
    "group_norm": _both("group_norm", lambda norm: lambda x, *parameters: norm(x, GROUPS, *parameters)),
    "instance_norm": _both("instance_norm", lambda norm: lambda x, *parameters: norm(x, None, None, *parameters)),
    "add rms_norm": {
        "fastopt": lambda x, r, weight: ours.rms_norm(x, weight.shape, weight, residual=r),
        "torch default": lambda x, r, weight: F.rms_norm(x + r, weight.shape, weight),
    },
}
ROWS = ("rms_norm", "layer_norm", "add rms_norm")


def _compiled(norm: Norm) -> Norm:
    """Compiles at the first call, and again for another size or type, which would otherwise be made a variable."""
    made: dict[tuple[torch.Size, torch.dtype], Norm] = {}

    def call(*tensors: Tensor) -> Tensor:
        kind = tensors[0].shape, tensors[0].dtype
        if kind not in made:
            torch.compiler.reset()  # at its limit, torch would no longer compile
            made.clear()
            made[kind] = torch.compile(norm, fullgraph=True, dynamic=False)
        return made[kind](*tensors)

    return call


def functions(name: str, compiled: bool = False) -> Functions:
    """The functions of an operation; ``compiled`` adds what inductor makes of torch's."""
    known = FUNCTIONS[name]
    return {**known, "torch compiled": _compiled(known["torch default"])} if compiled else known


def tensors_for(name: str, input: Input, requires_grad: bool) -> Tensors:
    """The functions' arguments: input, residual where one is added, weight, and bias where there is one."""
    (shape,) = input.shapes
    maps = [torch.randn(shape).to(input.dtype) for _ in range(1 + ("add" in name))]
    if len(shape) == 4:
        maps = [values.contiguous(memory_format=input.layout) for values in maps]
    count = shape[-1] if name in ROWS else shape[1]
    parameters = [torch.rand(count, dtype=input.dtype) for _ in range(1 if "rms" in name else 2)]
    return [tensor.requires_grad_(requires_grad) for tensor in (*maps, *parameters)]


def operation(name: str, way: Way = forward, *, compiled: bool = False) -> Operation:
    """An operation whose traffic counts inputs and results once, as if each set of elements stayed in a cache."""
    maps = 1 + ("add" in name)

    def traffic(tensors: Tensors) -> Traffic:
        return moved(maps, way, tensors[0].nbytes, grads=1, kept=True)

    return stepped(
        "norms",
        f"{name}{NAMES[way]}",
        functions(name, compiled),
        way,
        tensors=lambda input: tensors_for(name, input, way is not forward),
        traffic=traffic,
        agreement=within(1e-2),
    )


OPERATIONS = tuple(operation(name, way) for name in FUNCTIONS for way in (forward, backward, forward_and_backward))


def _cases(name: str, texts: list[str], compiled: bool = False) -> list[Case]:
    found = []
    both = operation(name, forward_and_backward, compiled=compiled)
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [input_of(text, dtype) for text in texts]
        found += [Case(both, input, quick=input.elements <= QUICK) for input in inputs]
    large = input_of(texts[0])
    return [*found, *[Case(operation(name, way), large) for way in (forward, backward)]]


def on_cpu() -> list[Case]:
    rows = ["8192x4096", "1024x1024", "4096x768", "64x64"]
    maps = [f"{size} {layout}" for size in ("8x64x56x56", "8x512x7x7") for layout in ("NCHW", "NHWC")]
    return [
        *_cases("rms_norm", rows, compiled=True),
        *_cases("layer_norm", rows, compiled=True),
        *_cases("add rms_norm", rows[:2]),
        *_cases("group_norm", maps),
        *_cases("instance_norm", maps),
    ]


def on_cuda() -> list[Case]:
    images = ["64x256x56x56 NCHW", "64x256x56x56 NHWC"]
    return [
        *[case for name in ROWS for case in _cases(name, ["32768x4096", "8192x1024"])],
        *[case for name in ("group_norm", "instance_norm") for case in _cases(name, images)],
    ]
