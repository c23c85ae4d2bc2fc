"""What the table of optimizers says of each, and what several of them have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One optimizer.

    ``plain`` are arguments with which it has all its states, for tests that do not depend on flags. Each of ``flags``
    is tried in addition to ``lr``. Each of ``own`` too, but the other implementation does not have them.
    """

    ours: type[torch.optim.Optimizer]
    theirs: type[torch.optim.Optimizer] | None  # None: this torch does not have it
    lr: float
    rates: tuple[float, float, dict[str, Any]]  # learning rates for a parabola and Rosenbrock's valley; arguments
    flags: list[dict[str, Any]]
    errors: list[dict[str, Any]]  # arguments that the constructor refuses
    plain: dict[str, Any] = field(default_factory=dict)
    own: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    base: dict[str, Any] = field(default_factory=dict)  # in every case
    complex: bool = True
    sparse: bool = False  # takes sparse gradients
    factored: bool = False  # has states by row and column
    scaled: bool = False  # an element's update depends on its whole tensor
    wide: dict[torch.dtype, tuple[str, ...]] = field(default_factory=dict)  # states that are float32, by half type
    grouped: bool = False  # an update depends on all parameters
    moved_after: int = 1  # steps until its parameters and all states have moved
    counts_by_group: bool = False  # parameters that come late join in their group's count
    by_sign: bool = False  # rounding can flip a sign, and with it an element's direction


DECAY = [{}, {"weight_decay": 0.1}, {"maximize": True}]
BOTH = {"weight_decay": 0.1, "maximize": True}
ADAM = [*DECAY, {"betas": (0.5, 0.9), "eps": 1e-4}]
AMSGRAD = [{"amsgrad": True}, {"amsgrad": True, **BOTH}]
DECOUPLED = [{"weight_decay": 0.1, "decoupled_weight_decay": True}]
BETA_ERRORS = [dict(betas=(1.0, 0.9)), dict(betas=(0.9, 1.0)), dict(betas=(0.9, -0.1))]
ADAM_ERRORS = [*BETA_ERRORS, dict(eps=-1.0), dict(weight_decay=-1.0)]
