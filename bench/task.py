"""A model and how it is trained: as written for torch; after ``fastopt.nn.convert`` with "trace", with our optimizer;
and with our optimizer alone, which shows what converting adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fastopt

from .agreement import within
from .operation import Input, Maker, Operation, Step, Tensors
from .peers import VARIANTS

STEP = "training step of "  # the names of operations begin with this


def classified(output: Tensor, targets: Tensor) -> Tensor:
    """The loss of outputs that have their classes in the last dimension."""
    return nn.functional.cross_entropy(output.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Task:
    """A model and how it is trained."""

    name: str
    model: Callable[[], nn.Module]
    tensors: Callable[[Input], Tensors]  # the model's input, and the targets
    loss: Callable[[Any, Tensor], Tensor] = classified
    optimizer: str = "AdamW"
    options: dict[str, Any] = field(default_factory=lambda: {"lr": 1e-3})
    max_norm: float | None = None
    ways: tuple[str, ...] = ("default", "fused")  # to run torch's optimizer
    package: str = ""  # the package that has the model

    def seeded(self, tensors: Tensors) -> nn.Module:
        torch.manual_seed(0)
        return self.model().to(tensors[0].device)

    def stepped(self, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float | None, tensors: Tensors) -> Step:
        inputs, targets = tensors

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(model(inputs), targets)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            return loss

        return step

    def ours(self, tensors: Tensors, convert: bool = True) -> Step:
        model = self.seeded(tensors)
        if convert:
            fastopt.nn.convert(model, fuse="trace", example=tensors[0])
        make = getattr(fastopt, self.optimizer)
        return self.stepped(model, make(model.parameters(), max_grad_norm=self.max_norm, **self.options), None, tensors)

    def theirs(self, flags: dict[str, bool]) -> Maker:
        def make(tensors: Tensors) -> Step:
            model = self.seeded(tensors)
            optimizer = getattr(torch.optim, self.optimizer)(model.parameters(), **self.options, **flags)
            return self.stepped(model, optimizer, self.max_norm, tensors)

        return make

    def operation(self) -> Operation:
        return Operation(
            family="training",
            name=f"{STEP}{self.name}",
            tensors=self.tensors,
            ours=self.ours,
            rival="torch",
            others={
                **{f"torch {way}": self.theirs(VARIANTS[way]) for way in self.ways},
                "fastopt unconverted": partial(self.ours, convert=False),
            },
            traffic=None,
            agreement=within(0.05),  # of the loss, as masks differ
            package=self.package,
        )
