"""Numbers that all groups of an optimizer share, and that sums over all parameters move on (Prodigy's ``d``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _runtime
from ._declared import Declared
from ._program import SHARED, Number, number
from ._sharded import refuse_flattened, sharded_dims_of
from ._update import Subject

_KEY = "_shared_numbers"  # in the optimizer's __dict__, which copies and checkpoints of an optimizer leave behind
_WHY = "needs sums over all parameters, of which each process would have its own part"


def is_on_device(optimizer: Declared) -> bool:
    """Whether a device moves the numbers on, and the CPU does not know them."""
    param = _first_param(optimizer)
    return param is not None and _runtime.on_device(param)


def _first_param(optimizer: Declared) -> Tensor | None:
    return next((param for group in optimizer.param_groups for param in group["params"]), None)


def share(optimizer: Declared, engine_step: Any) -> tuple[Tensor, dict[str, Number]]:
    """Tells the engine the numbers. Returns where it will leave the next ones, and what the scalars are made of.

    Those of the first group count, as a group that was added later has first values. On a device each number of a group
    is a part of one tensor, so that nobody waits for it.
    """
    keys, first = optimizer._shared, optimizer.param_groups[0]
    if is_on_device(optimizer):
        numbers = _on_device(optimizer)
        engine_step.share(numbers)
        return numbers, dict(zip(keys, SHARED, strict=True))
    known = {key: number(first[key]) for key in keys}
    numbers = torch.tensor(list(known.values()), dtype=torch.float64, device="cpu")
    engine_step.share(numbers)
    return numbers, known


def _on_device(optimizer: Declared) -> Tensor:
    """Returns the tensor whose parts the first group has; a new one where somebody put in others."""
    first, param = optimizer.param_groups[0], _first_param(optimizer)
    assert param is not None
    device = param.device
    numbers: Tensor | None
    numbers, parts = optimizer.__dict__.get(_KEY, (None, ()))
    given = [first[key] for key in optimizer._shared]
    if numbers is None or numbers.device != device or any(a is not b for a, b in zip(given, parts, strict=True)):
        if _runtime.capturing():
            raise RuntimeError("a CUDA graph would make the group's numbers anew: take a step before capture")
        numbers = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in given]).detach()
        optimizer.__dict__[_KEY] = numbers, numbers.unbind()
    return numbers


def keep(optimizer: Declared, numbers: Tensor) -> None:
    """Gives the groups the numbers that a step has left."""
    own, parts = optimizer.__dict__.get(_KEY, (None, ()))
    if own is not numbers:
        optimizer._move_on(*numbers.tolist())
        return
    for group in optimizer.param_groups:
        group.update(zip(optimizer._shared, parts, strict=True))


def refuse_process_parts(optimizer: Declared, params: list[Tensor]) -> None:
    """Refuses optimizers and parameters of which this process has a part."""
    step = f"a step of {type(optimizer).__name__}"
    refuse_flattened(params, step, "its update needs sums over all of them")
    if optimizer._has_partition:
        raise RuntimeError(f"{step} {_WHY}: ZeroRedundancyOptimizer is not for it")


def refuse_shard(subject: Subject) -> None:
    if sharded_dims_of(subject.owner) is not None:
        raise RuntimeError(f"{subject.name} is a DTensor that is cut; its update {_WHY}")
