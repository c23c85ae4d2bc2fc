"""Whole training steps, forward to update, of a model as it is written for torch: beside it the same model after
``fastopt.nn.convert``, with our optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastopt

from .agreement import within
from .models import GPT, ResNet20
from .operation import Case, Input, Maker, Operation, Step, Tensors
from .peers import VARIANTS

OPTIONS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1}
MAX_NORM = 1.0


def _stepper(model: nn.Module, optimizer: torch.optim.Optimizer, clip: Callable[[], object], tensors: Tensors) -> Step:
    inputs, targets = tensors

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        loss.backward()
        clip()
        optimizer.step()
        return loss

    return step


def _ours(model: Callable[[], nn.Module]) -> Maker:
    def make(tensors: Tensors) -> Step:
        net = fastopt.nn.convert(model().to(tensors[0].device))
        optimizer = fastopt.AdamW(net.parameters(), max_grad_norm=MAX_NORM, **OPTIONS)
        return _stepper(net, optimizer, lambda: None, tensors)

    return make


def _theirs(model: Callable[[], nn.Module], flags: dict[str, bool]) -> Maker:
    def make(tensors: Tensors) -> Step:
        net = model().to(tensors[0].device)
        optimizer = torch.optim.AdamW(net.parameters(), **OPTIONS, **flags)
        return _stepper(net, optimizer, lambda: nn.utils.clip_grad_norm_(net.parameters(), MAX_NORM), tensors)

    return make


def _operation(name: str, model: Callable[[], nn.Module], tensors: Callable[[Input], Tensors]) -> Operation:
    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return model()

    return Operation(
        family="training",
        name=f"training step of a {name}",
        tensors=tensors,
        ours=_ours(seeded),
        rival="torch",
        others={f"torch {way}": _theirs(seeded, VARIANTS[way]) for way in ("default", "fused")},
        traffic=None,
        agreement=within(0.05),  # of the loss: masks differ
    )


def _images(input: Input) -> Tensors:
    (shape,) = input.shapes
    return [torch.randn(shape), torch.randint(10, shape[:1])]


def _tokens(input: Input) -> Tensors:
    (shape,) = input.shapes
    text = torch.randint(2048, (shape[0], shape[1] + 1))
    return [text[:, :-1].contiguous(), text[:, 1:].contiguous()]


RESNET = _operation("ResNet-20", ResNet20, _images)
GPT_SMALL = _operation("GPT of 4 layers", GPT, _tokens)
OPERATIONS = (RESNET, GPT_SMALL)


def on_cpu() -> list[Case]:
    return [
        Case(RESNET, Input("32 images", ((32, 3, 32, 32),)), quick=True),
        Case(GPT_SMALL, Input("4 texts of 64", ((4, 64),)), quick=True),
    ]


def on_cuda() -> list[Case]:
    return [
        Case(RESNET, Input("512 images", ((512, 3, 32, 32),)), quick=True),
        Case(GPT_SMALL, Input("64 texts of 64", ((64, 64),))),
    ]
