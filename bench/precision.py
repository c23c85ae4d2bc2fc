"""How parameters and states are kept: each option in AdamW, compared with the same in several passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fastopt

from .agreement import changes, moves
from .operation import Agreement, Array, Case, Competitors, Input, Maker, Operation, Step, Tensors, Traffic, Walk
from .optimizers import LR, one, parameters
from .peers import implementations, variants
from .shapes import gpt2

RIVAL = "torch.optim.AdamW"
DECAY = 0.999
CODE_BLOCK = 32  # elements with one float32 scale
TORCH: Competitors = variants(RIVAL, lr=LR)


def traffic(*states: Callable[[int], int], writes: int = 0) -> Callable[[Tensors], Traffic]:
    """A step reads the gradient and updates the parameter and what it keeps: bytes of each, by elements."""

    def of(params: Tensors) -> Traffic:
        return [
            [
                Walk(
                    read=(Array(param.nbytes),),
                    updated=(Array(param.nbytes), *(Array(state(param.numel())) for state in states)),
                    written=(Array(writes * param.numel()),) if writes else (),
                )
                for param in params
            ]
        ]

    return of


def words(size: int) -> Callable[[int], int]:
    return lambda count: size * count


def codes(count: int) -> int:
    return count + 4 * -(-count // CODE_BLOCK)


def with_casts(make: Maker) -> Maker:
    """torch's way with a float32 master: the gradient is cast before the step, the master after it."""

    def build(params: Tensors) -> Step:
        masters = [param.detach().float() for param in params]
        into = [torch.empty_like(master) for master in masters]
        for master, grad in zip(masters, into, strict=True):
            master.grad = grad
        grads = [param.grad for param in params if param.grad is not None]
        targets, step = [param.detach() for param in params], make(masters)

        def cast_and_step() -> None:
            torch._foreach_copy_(into, grads)
            step()
            torch._foreach_copy_(targets, masters)

        return cast_and_step

    return build


def narrow(params: Tensors) -> Tensors:
    return [torch.empty_like(param.detach(), dtype=torch.bfloat16) for param in params]


def copying(params: Tensors) -> Step:
    copies = narrow(params)
    optimizer = fastopt.AdamW([{"params": params, "copies": copies}], lr=LR)

    def step() -> Tensors:
        optimizer.step()
        return copies

    return step


def then_copied(make: Maker) -> Maker:
    def build(params: Tensors) -> Step:
        copies, sources, step = narrow(params), [param.detach() for param in params], make(params)

        def step_and_copy() -> Tensors:
            step()
            torch._foreach_copy_(copies, sources)
            return copies

        return step_and_copy

    return build


def averaging(params: Tensors) -> Step:
    optimizer = fastopt.AdamW(params, lr=LR, ema=DECAY)
    averages: Tensors = []

    def step() -> Tensors:
        optimizer.step()
        if not averages:
            averages.extend(optimizer.state[param]["ema"] for param in params)
        return averages

    return step


def then_averaged(make: Maker) -> Maker:
    def build(params: Tensors) -> Step:
        model, step = nn.ParameterList([nn.Parameter(param.detach()) for param in params]), make(params)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))  # type: ignore[no-untyped-call]
        averages: list[Tensor] = list(average.module.parameters())

        def step_and_average() -> Tensors:
            step()
            average.update_parameters(model)
            return averages

        return step_and_average

    return build


def each(around: Callable[[Maker], Maker]) -> Competitors:
    return {name: around(make) for name, make in TORCH.items()}


def operation(
    name: str, ours: Maker, others: Competitors, moved: Callable[[Tensors], Traffic], agreement: Agreement = changes
) -> Operation:
    return Operation("precision", f"AdamW {name}", parameters, ours, RIVAL, others, moved, agreement)


def adamw(**options: object) -> Maker:
    return lambda params: fastopt.AdamW(params, lr=LR, **options).step  # type: ignore[arg-type]


FLOATS = (words(4), words(4))
DEEPSPEED = variants("deepspeed.ops.adam.DeepSpeedCPUAdam", lr=LR, weight_decay=1e-2)
CASTING = {name: with_casts(make) for name, make in {**TORCH, **DEEPSPEED}.items()}
SPLIT = operation("split master", adamw(master="split"), CASTING, traffic(words(2), *FLOATS))
MASTER = operation("float32 master", adamw(master="float32"), CASTING, traffic(words(4), *FLOATS))
COPY = operation("bfloat16 copy", copying, each(then_copied), traffic(*FLOATS, writes=2))
NARROW = operation(
    "bfloat16 states", adamw(state_dtype=torch.bfloat16), TORCH, traffic(words(2), words(2)), moves(0.05)
)
CODED = operation(
    "8-bit states",
    adamw(state_dtype="int8"),
    implementations("AdamW 8-bit states", RIVAL, lr=LR),
    traffic(codes, codes),
    moves(0.2),
)
RANDOM = operation(
    "random rounding",
    adamw(rounding="stochastic"),
    {"fastopt nearest": adamw(), **TORCH},
    lambda params: traffic(*(words(param.itemsize) for param in params[:1] for _ in range(2)))(params),
)
AVERAGE = operation("average", averaging, each(then_averaged), traffic(*FLOATS, words(4)))

HALVES, WHOLE = (SPLIT, MASTER, RANDOM), (COPY, NARROW, CODED, AVERAGE)  # by the type of the parameters
OPERATIONS = (*HALVES, *WHOLE)


# Bytes kept for each element, without the gradient that backward makes: ours, and torch's way of doing the same, which
# keeps a float32 gradient for a master. docs/precision.md counts ours.
KEPT = {
    "AdamW split master": (12, 18),
    "AdamW float32 master": (14, 18),
    "AdamW random rounding": (6, 6),
    "AdamW bfloat16 copy": (14, 14),
    "AdamW bfloat16 states": (8, 12),
    "AdamW 8-bit states": (6.25, 12),
    "AdamW average": (16, 16),
}


def many(dtype: torch.dtype) -> Input:
    kind = "" if dtype == torch.float32 else " bfloat16"
    return Input(f"160 tensors of 10k{kind}", ((10_000,),) * 160, dtype)


# What a step on the host is for: 355M elements, 5 GB of ours with gradients, 7 of deepspeed's.
OFFLOADED = Input("GPT-2 medium bfloat16", gpt2(1024, 50257, 1024, layers=24), torch.bfloat16)


def on_cpu() -> list[Case]:
    small = [
        Case(what, input, quick=len(input.shapes) > 1)
        for operations, dtype in ((HALVES, torch.bfloat16), (WHOLE, torch.float32))
        for what in operations
        for input in (one("16M", dtype), many(dtype))
    ]
    return [*small, *([Case(SPLIT, OFFLOADED, only=tuple(DEEPSPEED))] if DEEPSPEED else [])]


def on_cuda() -> list[Case]:
    return [case for case in on_cpu() if case.input is not OFFLOADED]
