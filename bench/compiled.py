"""Models compiled by inductor, forward and backward: converted, compared with torch's own modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastopt

from .agreement import within
from .models import UNet, encoder, small_cnn
from .operation import Case, Input, Maker, Operation, Step, Tensors
from .training import SERIES, pairs

Compile = Callable[[nn.Module], Callable[[Tensor], Tensor]]


def inductor(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compiles a model; raises an error where torch would otherwise continue without compiling."""
    torch.compiler.reset()  # otherwise earlier models count as recompilations of this one
    importlib.import_module("torch._inductor.config").force_disable_caches = True  # it may hold an older fastopt's code
    return torch.compile(model, fullgraph=True, dynamic=False)


def operation(name: str, model: Callable[[], nn.Module], compile: Compile = inductor) -> Operation:
    def maker(convert: bool) -> Maker:
        def make(tensors: Tensors) -> Step:
            torch.manual_seed(0)
            net = model()
            run = compile(fastopt.nn.convert(net) if convert else net)
            inputs, targets = tensors

            def step() -> Tensor:
                net.zero_grad()
                loss = nn.functional.mse_loss(run(inputs), targets)
                loss.backward()
                return loss

            return step

        return make

    return Operation(
        family="compiled",
        name=f"compiled {name}",
        tensors=pairs,
        ours=maker(True),
        rival="torch",
        others={"torch default": maker(False)},
        traffic=None,
        agreement=within(0.05),  # of the loss, as masks differ
    )


MODELS: tuple[tuple[str, Callable[[], nn.Module], Input], ...] = (
    ("U-Net", UNet, Input("4 images", ((4, 3, 64, 64), (4, 10, 64, 64)))),
    ("Conv, BatchNorm, ReLU, pool, Conv", small_cnn, Input("4 images", ((4, 3, 64, 64), (4, 10, 32, 32)))),
    ("nn.TransformerEncoder", encoder, SERIES),
)


def on_cpu(compile: Compile = inductor) -> list[Case]:
    return [Case(operation(name, model, compile), input) for name, model, input in MODELS]


def on_cuda() -> list[Case]:
    return []
