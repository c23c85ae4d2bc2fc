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
HALF = (torch.bfloat16, torch.float16)


class Update(NamedTuple):
    """How parameters are updated."""

    rule: str  # the kernel
    states: tuple[str, ...]  # the keys of its states in the optimizer's state, in the rule's order
    counts: bool = True  # whether the state has a 'step'
    carried: tuple[str, ...] = ()  # the keys of numbers that go from step to step, 0-dim tensors
    sums: bool = False  # whether the rule needs sums over the whole parameter
    masks: bool = False  # whether the update is cautious
    decays_cautiously: bool = False
    shares: bool = False  # whether it needs sums over all parameters, which move on the numbers that the groups share


# Parameters of a group with the same update: the update, the rule's scalars, and their indices (None: all).
Part = tuple[Update, Callable[..., Scalars], "list[int] | None"]


class Storage(NamedTuple):
    """What the engine is told of a group; the parameters' own entries are in their order."""

    master: str | None  # the key of the master in a parameter's state
    average: str | None
    scales: tuple[str | None, ...]  # for each state the key of its scales, None where it is never coded
    narrow: tuple[bool, ...]  # for each state whether it is bfloat16
    copies: list[Any] | None
    numbers: list[int]  # of the parameters in the optimizer
    firsts: list[int]  # elements of the parameters, those that this process's parts begin with
    seed: int
    random_param: bool
    random_states: bool

    def at(self, position: int) -> Storage:
        """The same of one parameter, as a whole."""
        copies = None if self.copies is None else [self.copies[position]]
        return self._replace(copies=copies, numbers=[self.numbers[position]], firsts=[0])

    def keys(self, param: Tensor) -> list[str]:
        """The states that the options add to a parameter's."""
        return [key for key in (self.master_of(param), self.average) if key is not None]

    def master_of(self, param: Tensor) -> str | None:
        return self.master if param.dtype in HALF else None


class Instead(NamedTuple):
    """What an update goes by instead of the parameter's own."""

    grad: Tensor
    t: int | None  # the count, where an earlier update of the same step has moved it


class Subject(NamedTuple):
    """A parameter that the engine does not take as it is, on the slow path of a step."""

    position: int  # among the parameters that the engine took last
    owner: Tensor  # the parameter as the user has it, to which the optimizer's states belong
    name: str  # how errors call it
    group: Group
    update: Update
    storage: Storage | None  # how the group keeps its parameters
    instead: Instead | None = None

    @property
    def grad(self) -> Tensor | None:
        return self.owner.grad if self.instead is None else self.instead.grad

    def alone(self) -> Subject:
        """The same, as the only parameter that the engine takes."""
        return self._replace(position=0, storage=self.storage and self.storage.at(self.position))


class Decay(enum.Enum):
    """What ``weight_decay`` does."""

    COUPLED = enum.auto()  # it is a part of the gradient
    DECOUPLED = enum.auto()  # it shrinks the parameter before its update
    OWN = enum.auto()  # the rule applies it


COUPLED, DECOUPLED, OWN = Decay  # an enumeration's attributes take longer to find


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
    independent_weight_decay: bool
    """Decoupled decay shrinks the parameter by ``1 - lr / initial_lr * weight_decay`` instead of ``1 - lr *
    weight_decay``: as the schedule goes, but whatever the learning rate. Schedulers set ``initial_lr``; without one the
    factor is ``1 - weight_decay`` (default: False)."""
    cautious: bool
    """Drops the elements of an update whose sign is not the gradient's, and divides the others by the part that is
    left, 1e-3 at least: ``u * mask / max(mean(mask), 1e-3)``, with ``mask = u * g > 0``. It takes a second pass over
    gradient, parameter and states (default: False)."""
    cautious_weight_decay: bool
    """Decoupled decay leaves out the elements that the update moves away from 0: it shrinks ``p`` where ``u * p >= 0``
    (default: False)."""
    master: str | None
    """bfloat16 and float16 parameters are updated in float32, and are the rounding of what is kept. ``"float32"`` keeps
    a float32 state ``master``; ``"split"``, for bfloat16, an int16 state ``remainder`` with the other half of the bits
    (default: None)."""
    rounding: str | None
    """``"stochastic"`` rounds parameters, states and copies of a half type up or down at random, without bias
    (default: None, to the nearest; states of ``state_dtype=torch.bfloat16`` stochastically)."""
    rounding_seed: int | None
    """What the random numbers of ``rounding`` depend on, 64 bits (default: None, drawn from torch's generator)."""
    state_dtype: torch.dtype | str | None
    """``torch.float32`` keeps the states of bfloat16 and float16 parameters in float32. ``torch.bfloat16`` halves the
    memory of states. ``"int8"`` codes states of 4096 elements and more in 8 bits, 32 elements with one scale
    (default: None, the parameter's type)."""
    ema: float | None
    """The decay of an average of the parameters, kept as a state ``ema``; :meth:`averaged` swaps it in
    (default: None)."""
    ema_warmup: bool
    """The decay of ``ema`` is at most ``(1 + t) / (10 + t)`` (default: False)."""
    copies: list[Tensor] | None
    """Of a parameter group: a tensor of any floating type for each parameter, which gets its new values in the same
    pass (default: None)."""


COMMON = CommonOptions(
    l1=0,
    max_grad_norm=None,
    max_grad_value=None,
    independent_weight_decay=False,
    cautious=False,
    cautious_weight_decay=False,
    master=None,
    rounding=None,
    rounding_seed=None,
    state_dtype=None,
    ema=None,
    ema_warmup=False,
    copies=None,
)

# The prologue's scalars where it does nothing.
IDENTITY_PROLOGUE: Scalars = {
    "loss_scale": 1.0,
    "grad_factor": 1.0,
    "max_grad_value": math.inf,
    "weight_decay": 0.0,
    "l1": 0.0,
    "decay": 1.0,
}
