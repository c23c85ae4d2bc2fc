"""Which parameters a step updates: all, or one, whose gradient backward has just completed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from ._declared import Declared
from ._update import Group


class One(NamedTuple):
    """The only parameter of a step."""

    g: int
    position: int  # in its group
    grad: Tensor | None  # in place of the parameter's own
    norm: Callable[[Any], Any]  # of the parameter's gradient; returns the norm to clip by


class Chosen(NamedTuple):
    """A group, or a copy of it with one of its parameters."""

    g: int
    group: Group
    first_index: int  # of its parameters in the group
    first_number: int  # of its parameters in the optimizer


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
