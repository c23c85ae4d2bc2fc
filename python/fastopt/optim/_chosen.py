"""Which parameters a step updates: all, or one, whose gradient backward has just completed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._declared import Declared
from ._update import Group

_FEW = 2**20  # elements


class One(NamedTuple):
    """The only parameter of a step."""

    g: int
    position: int  # in its group
    grad: Tensor | None  # in place of the parameter's own
    norm: Callable[[Any], Any]  # of the parameter's gradient; returns the norm to clip by

    def param(self, optimizer: Declared) -> Tensor:
        param: Tensor = optimizer.param_groups[self.g]["params"][self.position]
        return param

    def own_grads(self, optimizer: Declared) -> dict[Tensor, Tensor]:
        return {} if self.grad is None else {self.param(optimizer): self.grad}

    def threads(self, optimizer: Declared) -> int:
        """One for a small parameter: in backward OpenMP's threads wait in a loop, and would delay ours."""
        return 1 if self.param(optimizer).numel() < _FEW else torch.get_num_threads()


class Chosen(NamedTuple):
    """A group, or a copy of it with one of its parameters."""

    g: int
    group: Group
    first_index: int  # of its parameters in the group
    first_number: int  # of its parameters in the optimizer


def with_grad(params: list[Tensor], own_grads: dict[Tensor, Tensor]) -> list[int]:
    """Returns the indices of the parameters that have a gradient."""
    return [i for i, param in enumerate(params) if param.grad is not None or param in own_grads]


def chosen_groups(optimizer: Declared, one: One | None) -> Iterator[Chosen]:
    number = 0
    for g, group in enumerate(optimizer.param_groups):
        if one is None:
            yield Chosen(g, group, 0, number)
        elif one.g == g:
            alone = {**group, "params": [group["params"][one.position]]}
            if group.get("copies") is not None:
                alone["copies"] = [group["copies"][one.position]]
            yield Chosen(g, alone, one.position, number + one.position)
        number += len(group["params"])
