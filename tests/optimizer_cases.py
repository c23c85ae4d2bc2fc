"""The table of optimizers, a row each. Every suite runs over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

import fastopt
from optimizer_row import ADAM, ADAM_ERRORS, AMSGRAD, BOTH, DECAY, DECOUPLED, Row
from rows_beyond_torch import BEYOND_TORCH


@dataclass(frozen=True)
class Case:
    """One optimizer with one set of arguments."""

    ours: type[torch.optim.Optimizer]
    theirs: type[torch.optim.Optimizer] | None  # the class that it must agree with: torch's, or a paper's
    kwargs: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)  # arguments that the other class does not have
    row: Row | None = None

    @property
    def id(self) -> str:
        options = ",".join(
            f"{k}={v}" for k, v in {**self.kwargs, **self.extra}.items() if k != "lr" or v != self.row.lr
        )
        return f"{self.ours.__name__}({options})"

    @property
    def from_torch(self) -> bool:
        return self.theirs is not None and self.theirs.__module__.startswith("torch.")

    def make(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        return self.ours(params, **self.kwargs, **self.extra, **more)

    def make_theirs(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        assert self.theirs is not None
        return self.theirs(params, **self.kwargs, **more)


ROWS = [
    Row(
        fastopt.SGD,
        torch.optim.SGD,
        lr=0.1,
        rates=(0.03, 1e-3, {}),
        flags=[
            *DECAY,
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.5},
            {"momentum": 0.9, "nesterov": True},
            {"momentum": 0.9, "nesterov": True, **BOTH},
        ],
        own=[
            ({"momentum": 0.9}, {"lr_in_momentum": True}),
            ({"momentum": 0.9, "nesterov": True}, {"lr_in_momentum": True}),
        ],
        errors=[
            dict(momentum=-1.0),
            dict(nesterov=True),
            dict(momentum=0.9, nesterov=True, dampening=0.1),
            dict(weight_decay=-1.0),
            dict(foreach=True, fused=True),
        ],
        plain={"momentum": 0.9},
        sparse=True,
    ),
    Row(
        fastopt.Adam,
        torch.optim.Adam,
        lr=0.05,
        rates=(0.1, 0.1, {}),
        flags=[*ADAM, *AMSGRAD],
        errors=[*ADAM_ERRORS, dict(foreach=True, fused=True)],
        plain={"amsgrad": True},
    ),
    Row(
        fastopt.AdamW,
        torch.optim.AdamW,
        lr=0.05,
        rates=(0.1, 0.03, {}),
        flags=[*ADAM, *AMSGRAD],
        errors=[*ADAM_ERRORS, dict(foreach=True, fused=True)],
    ),
    Row(
        fastopt.Adagrad,
        torch.optim.Adagrad,
        lr=0.1,
        rates=(1.0, 1.0, {}),
        flags=[*DECAY, {"lr_decay": 0.1}, {"initial_accumulator_value": 0.5, "eps": 1e-3, **BOTH}],
        own=[({"eps": 1e-6}, {"eps_inside_sqrt": True})],
        errors=[
            dict(lr_decay=-0.5),
            dict(eps=-1.0),
            dict(initial_accumulator_value=-1.0),
            dict(weight_decay=-1.0),
            dict(foreach=True, fused=True),
        ],
        sparse=True,
    ),
    Row(
        fastopt.RMSprop,
        torch.optim.RMSprop,
        lr=0.02,
        rates=(0.01, 1e-3, {}),
        flags=[
            *DECAY,
            {"alpha": 0.9, "eps": 1e-4},
            {"momentum": 0.9},
            {"centered": True, "alpha": 0.9},
            {"centered": True, "momentum": 0.9, "alpha": 0.9, **BOTH},
        ],
        own=[
            ({"eps": 1e-6}, {"eps_inside_sqrt": True}),
            ({"momentum": 0.9, "alpha": 0.9}, {"lr_in_momentum": True}),
            ({"momentum": 0.9, "centered": True}, {"lr_in_momentum": True, "eps_inside_sqrt": True}),
        ],
        errors=[dict(momentum=-1.0), dict(alpha=-1.0), dict(eps=-1.0), dict(weight_decay=-1.0)],
        plain={"momentum": 0.9, "centered": True, "alpha": 0.9},
    ),
    Row(
        fastopt.Adadelta,
        torch.optim.Adadelta,
        lr=5.0,
        rates=(5.0, 1.0, {}),
        flags=[*DECAY, {"rho": 0.95, "eps": 1e-3}, {"rho": 0.95, **BOTH}],
        errors=[dict(rho=1.1), dict(rho=-0.1), dict(eps=-1.0), dict(weight_decay=-1.0)],
    ),
    Row(fastopt.Adamax, torch.optim.Adamax, lr=0.05, rates=(0.1, 0.3, {}), flags=[*ADAM, BOTH], errors=ADAM_ERRORS),
    Row(
        fastopt.NAdam,
        torch.optim.NAdam,
        lr=0.05,
        rates=(0.1, 0.03, {}),
        flags=[*ADAM, {"momentum_decay": 0.01, **BOTH}, *DECOUPLED],
        errors=[*ADAM_ERRORS, dict(momentum_decay=-0.2)],
    ),
    Row(
        fastopt.RAdam,
        torch.optim.RAdam,
        lr=0.05,
        rates=(0.1, 0.1, {"max_grad_norm": 1.0}),
        flags=[*ADAM, BOTH, *DECOUPLED],
        errors=ADAM_ERRORS,
    ),
    Row(
        fastopt.Adafactor,
        getattr(torch.optim, "Adafactor", None),
        lr=0.05,
        rates=(0.1, 0.03, {}),
        base={"eps": (1e-5, 1e-3)},  # explicit, as the default depends on the type
        flags=[*DECAY, {"beta2_decay": -0.5, "d": 2.0}, {"lr": 0.5}, BOTH],
        errors=[dict(beta2_decay=0.8), dict(d=0.5), dict(eps=(-1e-3, 1e-3)), dict(eps=(None, -1.0)), dict(lr=-1.0)],
        complex=False,
        factored=True,
        scaled=True,
    ),
    Row(
        fastopt.Rprop,
        torch.optim.Rprop,
        lr=0.02,
        rates=(0.01, 0.01, {}),
        flags=[{}, {"maximize": True}, {"etas": (0.25, 1.5)}, {"step_sizes": (0.01, 0.1)}],
        errors=[dict(etas=(1.0, 0.5)), dict(etas=(0.5, 0.9))],
    ),
    Row(
        fastopt.ASGD,
        torch.optim.ASGD,
        lr=0.05,
        rates=(0.03, 3e-3, {"t0": 1e6, "lambd": 1e-4}),
        flags=[*DECAY, {"t0": 5}, {"lambd": 0.05, "alpha": 0.5, "t0": 2, **BOTH}],
        errors=[dict(weight_decay=-0.5)],
        plain={"t0": 1, "lambd": 1e-3},
    ),
    *BEYOND_TORCH,
]


def _case(row: Row, kwargs: dict[str, Any], extra: dict[str, Any] | None = None, theirs: bool = True) -> Case:
    kwargs = {"lr": row.lr, **row.base, **kwargs}
    return Case(row.ours, row.theirs if theirs else None, kwargs, extra or {}, row)


# Cases that another implementation has; it must agree.
TORCH_CASES = [_case(row, flags) for row in ROWS for flags in row.flags if row.theirs is not None]

# Cases that only we have: compared with the reference, and each tested against a formula.
OWN_CASES = [_case(row, kwargs, extra, theirs=False) for row in ROWS for kwargs, extra in row.own]
OWN_CASES += [_case(row, row.plain, {"l1": 0.1}, theirs=False) for row in ROWS]
OWN_CASES += [_case(row, {}, {"max_grad_norm": 0.5, "max_grad_value": 0.3}, theirs=False) for row in ROWS]

ALL_CASES = [_case(row, flags) for row in ROWS for flags in row.flags] + OWN_CASES

# One case of each optimizer with all its states, for tests that do not depend on flags.
PLAIN_CASES = [_case(row, row.plain) for row in ROWS]
# The ones that another implementation has, and the ones that torch has.
PLAIN_COMPARED_CASES = [case for case in PLAIN_CASES if case.theirs is not None]
PLAIN_TORCH_CASES = [case for case in PLAIN_CASES if case.from_torch]


def ids(case: Any) -> str:
    if isinstance(case, Row):
        return case.ours.__name__
    return case.id if isinstance(case, Case) else str(case)
