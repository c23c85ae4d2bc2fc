"""Numbers that all groups of an optimizer share, and that sums over all parameters move on (Prodigy's ``d``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._declared import Declared
from ._program import Number, number
from ._sharded import refuse_flattened, sharded_dims_of
from ._update import Subject

_WHY = "needs sums over all parameters, of which each process would have its own part"


def share(optimizer: Declared, engine_step: Any) -> tuple[Tensor, dict[str, Number]]:
    """Tells the engine the numbers. Returns where it will leave the next ones, and what the groups have now.

    Those of the first group count, as a group that was added later has first values.
    """
    known = {key: number(optimizer.param_groups[0][key]) for key in optimizer._shared}
    numbers = torch.tensor(list(known.values()), dtype=torch.float64, device="cpu")
    engine_step.share(numbers)
    return numbers, known


def keep(optimizer: Declared, numbers: Tensor) -> None:
    """Gives the groups the numbers that a step has left."""
    optimizer._move_on(*numbers.tolist())


def refuse_process_parts(optimizer: Declared, params: list[Tensor]) -> None:
    """Refuses optimizers and parameters of which this process has a part."""
    step = f"a step of {type(optimizer).__name__}"
    refuse_flattened(params, step, "its update needs sums over all of them")
    if optimizer._has_partition:
        raise RuntimeError(f"{step} {_WHY}: ZeroRedundancyOptimizer is not for it")


def refuse_shard(subject: Subject) -> None:
    if sharded_dims_of(subject.owner) is not None:
        raise RuntimeError(f"{subject.name} is a DTensor that is cut; its update {_WHY}")
