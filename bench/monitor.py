"""What a monitor adds to a step of AdamW, and the usual way: a loop of norms after it."""

from __future__ import annotations

import torch

import fastopt

from .agreement import changes
from .operation import Case, Maker, Operation, Step, Tensors
from .optimizers import LR, one, parameters, traffic
from .peers import variants
from .precision import many

RIVAL = "torch.optim.AdamW"


def alone(params: Tensors) -> Step:
    return fastopt.AdamW(params, lr=LR).step


def monitored(params: Tensors) -> Step:
    """Without reading the numbers, which most steps leave to one of many."""
    optimizer = fastopt.AdamW(params, lr=LR)
    monitor = fastopt.monitor(optimizer)

    def step() -> None:
        optimizer.step()
        assert monitor is not None  # keeps it

    return step


def then_norms(make: Maker) -> Maker:
    """Parameters are copied before the step, to know the update; the norms stay tensors."""

    def build(params: Tensors) -> Step:
        step = make(params)
        now, before = [param.detach() for param in params], [torch.empty_like(param.detach()) for param in params]

        def step_and_norms() -> None:
            torch._foreach_copy_(before, now)
            step()
            for param, old in zip(params, before, strict=True):
                assert param.grad is not None
                param.grad.norm(), param.detach().norm(), (param.detach() - old).norm()

        return step_and_norms

    return build


OPERATION = Operation(
    family="monitor",
    name="AdamW monitored",
    tensors=parameters,
    ours=monitored,
    rival=RIVAL,
    others={
        "fastopt alone": alone,
        "fastopt norms": then_norms(alone),
        **{name: then_norms(make) for name, make in variants(RIVAL, lr=LR).items()},
    },
    traffic=traffic(2),
    agreement=changes,
)
OPERATIONS = (OPERATION,)


def on_cpu() -> list[Case]:
    small = many(torch.float32)
    return [Case(OPERATION, input, quick=input is small) for input in (one("16M"), small)]


def on_cuda() -> list[Case]:
    small = many(torch.float32)
    return [Case(OPERATION, input, quick=input is small) for input in (one("64M"), small)]
