"""The table of optimizers: one row each. Every suite runs over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

import fastopt


@dataclass(frozen=True)
class Case:
    """One optimizer with one set of arguments."""

    ours: type[torch.optim.Optimizer]
    theirs: type[torch.optim.Optimizer] | None  # the torch class it must agree with
    kwargs: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)  # arguments torch does not have

    @property
    def id(self) -> str:
        options = ",".join(f"{k}={v}" for k, v in {**self.kwargs, **self.extra}.items() if k != "lr")
        return f"{self.ours.__name__}({options})"

    def make(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        return self.ours(params, **self.kwargs, **self.extra, **more)

    def make_theirs(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        assert self.theirs is not None
        return self.theirs(params, **self.kwargs, **more)


def _rows(ours: Any, theirs: Any, lr: float, variants: list[dict[str, Any]]) -> list[Case]:
    return [Case(ours, theirs, {"lr": lr, **variant}) for variant in variants]


_ADAM = [
    {},
    {"amsgrad": True},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"betas": (0.5, 0.9), "eps": 1e-4},
    {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
]

TORCH_CASES: list[Case] = [
    *_rows(
        fastopt.SGD,
        torch.optim.SGD,
        0.1,
        [
            {},
            {"weight_decay": 0.1},
            {"maximize": True},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.5},
            {"momentum": 0.9, "nesterov": True},
            {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
        ],
    ),
    *_rows(fastopt.Adam, torch.optim.Adam, 0.05, _ADAM),
    *_rows(fastopt.AdamW, torch.optim.AdamW, 0.05, _ADAM),
]

# What torch has not; compared with the reference, and each with its own test against a formula.
OWN_CASES: list[Case] = [
    Case(fastopt.SGD, None, {"lr": 0.1, "momentum": 0.9}, {"lr_in_momentum": True}),
    Case(fastopt.SGD, None, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"lr_in_momentum": True}),
    Case(fastopt.SGD, None, {"lr": 0.1}, {"l1": 0.1}),
    Case(fastopt.AdamW, None, {"lr": 0.05, "weight_decay": 0.1}, {"l1": 0.1}),
]

ALL_CASES = TORCH_CASES + OWN_CASES

# One row of each optimizer with all its states, for what does not depend on the flags.
PLAIN_CASES: list[Case] = [
    Case(fastopt.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    Case(fastopt.Adam, torch.optim.Adam, {"lr": 0.05, "amsgrad": True}),
    Case(fastopt.AdamW, torch.optim.AdamW, {"lr": 0.05}),
]


def ids(case: Any) -> str:
    return case.id if isinstance(case, Case) else str(case)
