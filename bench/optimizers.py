"""The optimizers, and clipping together with a step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import fastopt

from .agreement import changes
from .operation import Array, Case, Input, Operation, Shape, Tensors, Traffic, Walk
from .peers import clipped, implementations, on_cuda_alone
from .shapes import MLP, gpt2, resnet50

N = {f"{1 << k}k": 1 << (k + 10) for k in range(2, 10)} | {f"{1 << k}M": 1 << (k + 20) for k in range(7)}
SPARSE_WAYS = ("torch default", "torch foreach", "torch for-loop")  # the fused ones take no sparse gradients
LR = 1e-2  # three steps move a bfloat16 parameter


@dataclass(frozen=True)
class Rule:
    """An optimizer with one set of flags."""

    optimizer: str
    states: int  # states of the parameter's size
    kwargs: dict[str, Any] = field(default_factory=dict)
    package: str = "torch.optim"  # the package of its rival
    rival: str = ""  # its rival's name there, if it is another


ELEMENTWISE = {
    "Adam": Rule("Adam", 2),
    "AdamW": Rule("AdamW", 2),
    "Adam amsgrad": Rule("Adam", 3, {"amsgrad": True}),
    "SGD": Rule("SGD", 0),
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
    "ScheduleFreeAdamW": Rule("ScheduleFreeAdamW", 2, package="schedulefree", rival="AdamWScheduleFree"),
    "ScheduleFreeSGD": Rule("ScheduleFreeSGD", 1, package="schedulefree", rival="SGDScheduleFree"),
    "Adan": Rule("Adan", 4, package="pytorch_optimizer"),
    "ADOPT": Rule("ADOPT", 2, package="pytorch_optimizer"),
    "AdEMAMix": Rule("AdEMAMix", 3, package="pytorch_optimizer"),
}
RULES = {
    **ELEMENTWISE,
    "Adafactor": Rule("Adafactor", 0),
    "LAMB": Rule("LAMB", 2, package="timm.optim"),
    "LARS": Rule("LARS", 1, {"lr": 10.0, "momentum": 0.9, "weight_decay": 5e-4}, package="timm.optim", rival="Lars"),
    "StableAdamW": Rule("StableAdamW", 2, package="optimi"),
    "Prodigy": Rule("Prodigy", 4, {"lr": 1.0, "d0": 1e-3}, package="prodigyopt"),
}
ROWS_ALONE = {"SparseAdam": Rule("SparseAdam", 2)}


def parameters(input: Input) -> Tensors:
    """Random parameters with gradients."""
    params = [torch.randn(shape).to(input.dtype).requires_grad_() for shape in input.shapes]
    for param in params:
        param.grad = torch.randn(param.shape).to(input.dtype)
    return params


def table(input: Input) -> Tensors:
    """Embeddings with the gradient of a batch that has touched some rows, some of them twice."""
    (rows, *_), (touched, width) = input.shapes
    param = torch.randn(rows, width).to(input.dtype).requires_grad_()
    where = torch.randint(0, rows, (1, touched))
    values = torch.randn(touched, width).to(input.dtype)
    param.grad = torch.sparse_coo_tensor(where, values, param.shape, check_invariants=False)
    return [param]


def traffic(states: int, clips: bool = False) -> Callable[[Tensors], Traffic]:
    """An update reads the gradient and updates the parameter and its states. Clipping reads the gradient first."""

    def of(params: Tensors) -> Traffic:
        arrays = [[Array(param.nbytes) for _ in range(2 + states)] for param in params]
        norm = [Walk(read=(grad,)) for grad, *_ in arrays]
        return [*([norm] if clips else []), [Walk(read=(grad,), updated=tuple(rest)) for grad, *rest in arrays]]

    return of


def _adafactor_traffic(params: Tensors) -> Traffic:
    """Sums over parameter and gradient, sums over the update, the update. Rows and columns are too small to count."""
    arrays = [(Array(param.nbytes), Array(param.nbytes)) for param in params]
    return [
        [Walk(read=(param, grad)) for param, grad in arrays],
        [Walk(read=(grad,)) for _, grad in arrays],
        [Walk(read=(grad,), updated=(param,)) for param, grad in arrays],
    ]


def _scaled_traffic(states: int, *, measured: tuple[int, ...]) -> Callable[[Tensors], Traffic]:
    """Sums of squares, and the update. ``measured`` is what the sums read: 0 is the gradient, 1 the parameter, 2 the
    first state."""

    def of(params: Tensors) -> Traffic:
        arrays = [[Array(param.nbytes) for _ in range(2 + states)] for param in params]
        return [
            [Walk(read=tuple(each[i] for i in measured)) for each in arrays],
            [Walk(read=(grad,), updated=tuple(rest)) for grad, *rest in arrays],
        ]

    return of


def _prodigy_traffic(params: Tensors) -> Traffic:
    """The sums read gradient, parameter, s and p0; the update leaves p0 alone."""
    arrays = [[Array(param.nbytes) for _ in range(6)] for param in params]
    return [
        [Walk(read=(grad, param, s, p0)) for grad, param, s, p0, *_ in arrays],
        [Walk(read=(grad,), updated=(param, s, *averages)) for grad, param, s, _, *averages in arrays],
    ]


TRAFFIC = {
    "Adafactor": _adafactor_traffic,
    "LAMB": _scaled_traffic(2, measured=(0, 1, 2, 3)),
    "LARS": _scaled_traffic(1, measured=(0, 1)),
    "StableAdamW": _scaled_traffic(2, measured=(0, 2)),
    "Prodigy": _prodigy_traffic,
}


@functools.cache
def operation(name: str, device: str = "cpu") -> Operation:
    """The operation of one of the rules above."""
    rule = (RULES | ROWS_ALONE)[name]
    kwargs = {"lr": LR, **rule.kwargs}
    ours, rival = getattr(fastopt, rule.optimizer), f"{rule.package}.{rule.rival or rule.optimizer}"
    others = implementations(name, rival, **kwargs)
    if device == "cuda":
        others |= on_cuda_alone(rule.optimizer, **kwargs)
    return Operation(
        family="optimizers",
        name=name,
        tensors=parameters,
        ours=lambda params: ours(params, **kwargs).step,
        rival=rival,
        others=others,
        traffic=TRAFFIC.get(name) or traffic(rule.states),
        agreement=changes,
    )


@functools.cache
def clip_and_step() -> Operation:
    """AdamW, clipped by the norm of all gradients."""
    rival = "torch.optim.AdamW"
    return Operation(
        family="clip",
        name="clip + AdamW",
        tensors=parameters,
        ours=lambda params: fastopt.AdamW(params, lr=LR, max_grad_norm=1.0).step,
        rival=rival,
        others=clipped(implementations("AdamW", rival, lr=LR), 1.0),
        traffic=traffic(2, clips=True),
        agreement=changes,
    )


@functools.cache
def sparse(name: str) -> Operation:
    """A step with a sparse gradient. It takes as much time to sort as to move memory."""
    return replace(
        operation(name),
        family="sparse",
        name=f"sparse {name}",
        tensors=table,
        others={way: make for way, make in operation(name).others.items() if way in SPARSE_WAYS},
        traffic=None,
    )


OPERATIONS = (*map(operation, RULES), clip_and_step())
SPARSE = tuple(map(sparse, ("SGD", "Adagrad", *ROWS_ALONE)))


def one(size: str, dtype: torch.dtype = torch.float32) -> Input:
    kind = "" if dtype == torch.float32 else f" {dtype}".replace("torch.", "")
    return Input(f"one tensor of {size}{kind}", ((N[size],),), dtype)


def matrix(rows: int) -> Input:
    return Input(f"one matrix of {rows}x{rows}", ((rows, rows),))


def model(label: str, shapes: Sequence[Shape]) -> Input:
    return Input(f"{label}, {len(shapes)} tensors", tuple(shapes))


def embeddings(touched: int) -> Input:
    return Input(f"{touched} rows of 64 of {N['128k']}", ((N["128k"], 64), (touched, 64)))


SMALL = Input("1000 tensors of 1k", ((1000,),) * 1000)
TINY_MODEL = model("MLP", MLP)
RESNET50 = model("ResNet-50", resnet50())
GPT2 = model("GPT-2 small", gpt2(768, 50257, 1024))
NARROW_GPT2 = model("GPT-2 of width 192", gpt2(192, 8192, 256))
# Every competitor has a copy of the model, so a large one has few competitors.
FEW = ("torch default", "torch fused", "deepspeed default")


def _cases(what: Operation, inputs: Sequence[Input], quick: Sequence[Input] = (), **more: Any) -> list[Case]:
    return [Case(what, input, quick=input in quick, **more) for input in inputs]


def on_cpu() -> list[Case]:
    touched = [embeddings(rows) for rows in (16384, 1024, 64)]
    adam, adamw, sgd, adafactor = (operation(name) for name in ("Adam", "AdamW", "SGD momentum", "Adafactor"))
    rest = [operation(name) for name in RULES if name not in ("Adam", "AdamW", "SGD momentum", "Adafactor")]
    half = [one(size, dtype) for dtype in (torch.bfloat16, torch.float16) for size in ("16M", "1M")]
    small = [one("4k"), SMALL, TINY_MODEL]
    return [
        *_cases(adam, [one("64M"), GPT2], only=FEW),
        *_cases(adam, [one("16M"), one("1M"), one("128k"), *small, RESNET50], quick=[one("128k"), *small]),
        *_cases(adam, [*half, one("1M", torch.float64)]),
        *_cases(adamw, [one("16M"), one("128k")], quick=[one("128k")]),
        *_cases(sgd, [one("16M"), one("1M"), one("128k"), *small, RESNET50], quick=small),
        *[case for what in rest for case in _cases(what, [one("16M"), one("128k")], quick=[one("128k")])],
        *_cases(adafactor, [GPT2], only=FEW),
        *_cases(adafactor, [matrix(4096), matrix(1024), matrix(256)], quick=[matrix(256)]),
        *_cases(clip_and_step(), [GPT2], only=FEW),
        *_cases(clip_and_step(), [NARROW_GPT2, RESNET50, TINY_MODEL], quick=[TINY_MODEL]),
        *[case for what in SPARSE for case in _cases(what, touched, quick=touched[-1:])],
    ]


def on_cuda() -> list[Case]:
    """The same rules on inputs that keep a GPU busy, and on small ones whose launches take longer than their memory."""
    adam, sgd, adafactor = (operation(name, "cuda") for name in ("Adam", "SGD momentum", "Adafactor"))
    large = [one("64M"), one("64M", torch.bfloat16)]
    return [
        *[case for name in ELEMENTWISE for case in _cases(operation(name, "cuda"), large, large[: name == "Adam"])],
        *_cases(adam, [one("64M", torch.float16), one("64M", torch.float64)]),
        *_cases(adam, [one("1M"), SMALL, TINY_MODEL], quick=[one("1M"), SMALL, TINY_MODEL]),
        *_cases(sgd, [SMALL, TINY_MODEL], quick=[SMALL, TINY_MODEL]),
        *_cases(adafactor, [matrix(8192), matrix(1024)], quick=[matrix(1024)]),
        *_cases(clip_and_step(), [GPT2], quick=[GPT2], only=("torch default", "torch foreach", "torch fused")),
    ]
