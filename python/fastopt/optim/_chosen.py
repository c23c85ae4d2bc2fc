"""Which parameters a step updates: all, or some, whose gradients backward has just completed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._declared import Declared
from ._update import Group

_FEW = 2**17  # elements


class Some(NamedTuple):
    """The only parameters of a step."""

    places: dict[int, list[int]]  # their positions in each group
    grads: dict[Tensor, Tensor]  # in place of parameters' own
    norm: Callable[[Any], Any]  # of their gradients; returns the norm to clip by

    def params(self, optimizer: Declared) -> list[Tensor]:
        groups = optimizer.param_groups
        return [groups[g]["params"][i] for g, positions in self.places.items() for i in positions]

    def threads(self, optimizer: Declared) -> int:
        """One for few elements, for which it does not pay to wake the others."""
        few = sum(param.numel() for param in self.params(optimizer)) < _FEW
        return 1 if few else torch.get_num_threads()


class Chosen(NamedTuple):
    """A group, or a copy of it with some of its parameters."""

    g: int
    group: Group
    positions: Sequence[int]  # of its parameters in the group that the user knows
    first_number: int  # of that group's parameters in the optimizer

    def numbers(self, indices: Iterable[int]) -> list[int]:
        """Returns the numbers in the optimizer of parameters in the group."""
        return [self.first_number + self.positions[i] for i in indices]


def chosen_groups(optimizer: Declared, some: Some | None) -> Iterator[Chosen]:
    number = 0
    for g, group in enumerate(optimizer.param_groups):
        if some is None:
            yield Chosen(g, group, range(len(group["params"])), number)
        elif g in some.places:
            positions = some.places[g]
            part = {**group, "params": [group["params"][i] for i in positions]}
            if group.get("copies") is not None:
                part["copies"] = [group["copies"][i] for i in positions]
            yield Chosen(g, part, positions, number)
        number += len(group["params"])


def own_grads(optimizer: Declared, some: Some | None) -> dict[Tensor, Tensor]:
    """Returns the gradients that take the place of parameters' own."""
    return optimizer._own_grads if some is None else some.grads


def with_grad(params: list[Tensor], grads: dict[Tensor, Tensor]) -> list[int]:
    """Returns the indices of the parameters that have a gradient."""
    return [i for i, param in enumerate(params) if param.grad is not None or param in grads]
