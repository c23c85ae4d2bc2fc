"""What an optimizer tells the step: which rule updates what; and the options that all optimizers have."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from ._program import Scalars

Group = dict[str, Any]


class Update(NamedTuple):
    """How parameters are updated."""

    rule: str  # the kernel
    states: tuple[str, ...]  # the keys of its states in the optimizer's state, in the rule's order
    counts: bool = True  # whether the state has a 'step'
    carried: tuple[str, ...] = ()  # the keys of numbers that go from step to step, 0-dim tensors
    sums: bool = False  # whether the rule needs sums over the whole parameter


# Parameters of a group with the same update: the update, the rule's scalars, and their indices (None: all).
Part = tuple[Update, Callable[..., Scalars], "list[int] | None"]


class Subject(NamedTuple):
    """A parameter that the engine does not take as it is, on the slow path of a step."""

    position: int  # among the parameters that the engine took last
    owner: Tensor  # the parameter as the user has it, to which the optimizer's states belong
    name: str  # how errors call it
    group: Group
    update: Update


class Decay(enum.Enum):
    """What ``weight_decay`` does."""

    COUPLED = enum.auto()  # it is a part of the gradient
    DECOUPLED = enum.auto()  # it shrinks the parameter before its update
    OWN = enum.auto()  # the rule applies it


class CommonOptions(TypedDict, total=False):
    """Options that every optimizer takes, keyword-only; each may also be set per parameter group."""

    l1: float
    """L1 penalty, ``l1 * sign(p)`` added to the gradient (default: 0)."""
    max_grad_norm: float | None
    """Gradients enter the update scaled by ``max_grad_norm / (norm + 1e-6)`` where that is below 1, as
    after ``clip_grad_norm_``; ``norm`` is that of all gradients of the groups that set this option.
    ``p.grad`` is left as it is (default: None, off)."""
    max_grad_value: float | None
    """Gradients enter the update clamped to plus or minus this, after ``max_grad_norm`` (default: None)."""
    state_dtype: torch.dtype | None
    """``torch.float32`` keeps the states of bfloat16 and float16 parameters in float32, also in checkpoints
    (default: None, the parameter's type)."""


COMMON = CommonOptions(l1=0, max_grad_norm=None, max_grad_value=None, state_dtype=None)

# The prologue's scalars where it does nothing.
IDENTITY_PROLOGUE: Scalars = {
    "loss_scale": 1.0,
    "grad_factor": 1.0,
    "max_grad_value": math.inf,
    "weight_decay": 0.0,
    "l1": 0.0,
    "decay": 1.0,
}
