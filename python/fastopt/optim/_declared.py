"""What an optimizer declares: which rule updates what, with which scalars, states and names.

The step, checkpoints and conversions use only this, and know no class of optimizers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ._codes import CODINGS, Coding, scale_key
from ._dense import zeros_like
from ._options import Options
from ._program import Number, Scalars, number
from ._storage import KEYS, state_type
from ._update import COUPLED, DECOUPLED, Decay, Group, Part, Update


class Declared(Options):
    """The answers that most optimizers give.

    A subclass defines :meth:`_update`, :meth:`_scalars` and, where these answers do not fit, :meth:`_decay`,
    :meth:`_sparse`, :meth:`_new_state` and :meth:`_first_value`.
    """

    _family: ClassVar[tuple[type[Declared], ...]] = ()  # all optimizers of ours, set by ``_all``
    _sparse_hint = ""
    _is_stored = True  # whether the options of _storage.py are its own
    _codings: ClassVar[dict[str, Coding]] = CODINGS  # of the states that state_dtype narrows
    _shared: tuple[str, ...] = ()  # the keys of numbers that all groups share, where the update needs sums over them
    _is_separable = True  # whether a step updates each parameter by itself, and once
    _own_grads: dict[Tensor, Tensor] = {}  # noqa: RUF012  # in place of parameters' own; offload() fills its optimizer's
    _carried: tuple[str, ...] = ()  # the keys of states that are numbers, in addition to 'step'
    # Set by a step that clipped. The class has no default, because a trainer's wrapper would find that first.
    _grad_norm: float | Tensor

    def _update(self, group: Group) -> Update:
        raise NotImplementedError

    def _scalars(self, group: Group, t: Number, *carried: Number) -> Scalars:
        """Returns the rule's scalars for a parameter's ``t``-th update, and the next values of the scalars it carries,
        in double precision.

        Where the update does not count, ``t`` is 1 for a parameter without state and 2 after that.
        """
        raise NotImplementedError

    def _advance(self) -> None:
        """Moves on what the optimizer counts by itself, when a step has updated all groups."""

    def _course(self) -> Iterable[list[Tensor]]:
        """Returns the order of a step: lists of parameters, each of which the step takes when it has updated the one
        before. It updates those that are in no list at last."""
        return ()

    def _take_norm(self, norm: Callable[[], Any]) -> Any:
        """Returns the norm to clip by; ``norm`` takes that of the gradients."""
        return norm()

    def _move_on(self, *numbers: float) -> None:
        """Gives the groups the next values of the numbers that they share."""
        raise NotImplementedError

    def _parts(self, group: Group) -> list[Part]:
        return [(self._update(group), functools.partial(self._scalars, group), None)]

    def _state_keys(self) -> set[str] | None:
        """Returns the states that a parameter can have, or None for any. A group with every option on has them all."""
        return self._keys_of(self._update(dict.fromkeys(self.defaults, True)))

    def _keys_of(self, *updates: Update) -> set[str]:
        states = {key for update in updates for key in update.states}
        carried = {key for update in updates for key in update.carried}
        return {"step", *states, *carried, *KEYS} | {scale_key(key) for key in states & self._codings.keys()}

    def _decay(self, group: Group) -> Decay:
        return COUPLED

    def _sparse(self, group: Group) -> str | None:
        """Returns what sparse gradients update: "rows" that they touch, or "dense", everything; None is an error."""
        return None

    def _prologue(self, group: Group, loss_scale: float) -> Scalars:
        self._check_decay(group)  # groups may be edited
        weight_decay = number(self._option(group, "weight_decay", 0.0))
        decay = self._decay(group)
        shrinks = decay is DECOUPLED and weight_decay != 0
        max_grad_value = self._limit(group, "max_grad_value")
        return {
            "loss_scale": loss_scale,
            "grad_factor": -1.0 if self._option(group, "maximize") else 1.0,
            "max_grad_value": math.inf if max_grad_value is None else max_grad_value,
            "weight_decay": weight_decay if decay is COUPLED else 0.0,
            "l1": self._limit(group, "l1") or 0.0,
            "decay": 1.0 - self._decay_rate(group) * weight_decay if shrinks else 1.0,
        }

    def _decay_rate(self, group: Group) -> Number:
        """By how much of ``weight_decay`` a parameter shrinks in a step."""
        lr = number(group["lr"])
        if not self._option(group, "independent_weight_decay"):
            return lr
        return lr / number(group["initial_lr"]) if group.get("initial_lr") else 1.0

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        self._check_decay(group)
        self._caution(group)

    def _check_decay(self, group: Group) -> None:
        independent, cautious = group.get("independent_weight_decay"), group.get("cautious_weight_decay")
        if not (independent or cautious) or self._option(group, "weight_decay", 0.0) == 0:
            return
        for option, wanted, offered in (
            ("independent_weight_decay", independent, self._decay(group) is DECOUPLED),
            ("cautious_weight_decay", cautious, self._is_decay_apart(group)),
        ):
            if wanted and not offered:
                raise ValueError(f"{option}: the decay of {type(self).__name__} is not decoupled from its update here")

    def _is_decay_apart(self, group: Group) -> bool:
        """Whether the decay is a factor of the parameter alone, so that it may be cautious."""
        return self._decay(group) is DECOUPLED

    def _why_bold(self, group: Group) -> str | None:
        """Returns why an update cannot be cautious, None where it can be: where the rule subtracts from the parameter
        what does not depend on it."""
        return None

    def _caution(self, group: Group) -> tuple[bool, bool]:
        """Returns whether the group's updates are cautious, and whether their decay is."""
        masks = bool(group.get("cautious"))
        decays = bool(group.get("cautious_weight_decay")) and self._option(group, "weight_decay", 0.0) != 0
        why = self._why_bold(group) if masks or decays else None
        if why is not None:
            option = "cautious" if masks else "cautious_weight_decay"
            raise ValueError(f"{option}: {type(self).__name__} {why}")
        return masks, decays

    def _clipped(self) -> list[Tensor]:
        """Returns the parameters whose gradients make up the norm."""
        groups = [group for group in self.param_groups if self._max_norm(group) is not None]
        return [param for group in groups for param in group["params"]]

    def _name(self, param: Tensor) -> str:
        """Returns the name of a parameter for error messages."""
        for g, group in enumerate(self.param_groups):
            for i, candidate in enumerate(group["params"]):
                if candidate is param:
                    return self._name_at(g, i)
        return "a parameter"

    def _operand(self, param: Tensor, role: str) -> str:
        return self._name(param) if role == "parameter" else f"the {role} of {self._name(param)}"

    def _name_at(self, g: int, i: int) -> str:
        group, label = self.param_groups[g], self._label_at(g, i)
        if group.get("param_names"):
            return f"parameter '{label}'"
        return f"{label} (shape {tuple(group['params'][i].shape)})"

    def _label_at(self, g: int, i: int) -> str:
        """Returns a parameter's own name, or its place."""
        names: list[str] | None = self.param_groups[g].get("param_names")
        return names[i] if names else f"parameter {i} of group {g}"

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        """Makes a state for the time before its parameter's first update."""
        return zeros_like(param, self._state_type(param, group, key))

    def _first_value(self, group: Group, key: str) -> float:
        """Returns the value of a carried scalar before its parameter's first update."""
        raise NotImplementedError

    def _state_shape(self, shape: torch.Size, key: str) -> torch.Size:
        return shape

    def _state_type(self, param: Tensor, group: Group, key: str) -> torch.dtype:
        return state_type(self, param, group, key)
