"""Whether two implementations do the same. Tolerances are wide: they are to find another operation, or a bug."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .operation import Agreement, Tensors

_ROUNDINGS = 4  # to the type of the result
_SIGMAS = 6


def _eps(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps


def _told(excess: Iterator[Tensor]) -> str:
    """Of errors, each in units of what is allowed."""
    worst = max((float(each.nan_to_num(torch.inf, torch.inf).max()) for each in excess if each.numel()), default=0.0)
    return "" if worst <= 1 else f"its result differs, by {worst:.3g} times what is allowed"


def changes(inputs: Tensors, ours: Tensors, theirs: Tensors) -> str:
    """Of what was updated: compares by how much it has moved, to 5 % of the largest move."""

    def excess() -> Iterator[Tensor]:
        for before, mine, other in zip(inputs, ours, theirs, strict=True):
            if before.numel():
                moves = (mine.double() - before.double()).abs().max()
                allowed = 0.05 * moves + _ROUNDINGS * _eps(mine) * before.double().abs()
                yield (mine.double() - other.double()).abs() / allowed

    return _told(excess())


def within(share: float) -> Agreement:
    """Of results: the difference's length, as a share of the result's; more where some are of half types."""

    def agreement(inputs: Tensors, ours: Tensors, theirs: Tensors) -> str:
        def excess() -> Iterator[Tensor]:
            allowed = max(share, *(16 * _eps(mine) for mine in ours))
            for mine, other in zip(ours, theirs, strict=True):
                yield (mine.double() - other.double()).norm() / (allowed * mine.double().norm().clamp_min(1e-30))

        return _told(excess())

    return agreement


def moments(spatial: bool = False) -> Agreement:
    """Of random results: compares means and mean squares; channels are dropped as wholes where it is ``spatial``."""

    def agreement(inputs: Tensors, ours: Tensors, theirs: Tensors) -> str:
        def excess() -> Iterator[Tensor]:
            for pair in zip(ours, theirs, strict=True):
                for power in (1, 2):
                    mine, other = (_independent(each, spatial) ** power for each in pair)
                    sigma = ((mine.var() + other.var()) / mine.numel()).sqrt().clamp_min(1e-30)
                    allowed = _SIGMAS * sigma + 0.02 * mine.abs().mean()  # half types round their factor
                    yield (mine.mean() - other.mean()).abs() / allowed

        return _told(excess())

    return agreement


def _independent(result: Tensor, spatial: bool) -> Tensor:
    result = result.double()
    return result.flatten(2).mean(2) if spatial else result
