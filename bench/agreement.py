"""Whether two implementations compute the same. Tolerances are wide: the check looks for a wrong operation or a bug."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .operation import Agreement, Tensors

_ROUNDINGS = 4  # to the type of the result, at most
_SIGMAS = 6


def _eps(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps


def _told(excess: Iterator[Tensor]) -> str:
    """Takes errors, divided by what is allowed, and says how large the worst is; "" if all are allowed."""
    worst = max((float(each.nan_to_num(torch.inf, torch.inf).max()) for each in excess if each.numel()), default=0.0)
    return "" if worst <= 1 else f"its result differs, by {worst:.3g} times what is allowed"


def changes(inputs: Tensors, ours: Tensors, theirs: Tensors) -> str:
    """Compares updated tensors by how far they have moved: the error may be 5 % of the largest move."""

    def excess() -> Iterator[Tensor]:
        for before, mine, other in zip(inputs, ours, theirs, strict=True):
            if before.numel():
                moves = (mine.double() - before.double()).abs().max()
                allowed = 0.05 * moves + _ROUNDINGS * _eps(mine) * before.double().abs()
                yield (mine.double() - other.double()).abs() / allowed

    return _told(excess())


def within(share: float) -> Agreement:
    """Compares results: the length of the difference may be this share of the result's length; more in half types."""

    def agreement(inputs: Tensors, ours: Tensors, theirs: Tensors) -> str:
        def excess() -> Iterator[Tensor]:
            allowed = max(share, *(16 * _eps(mine) for mine in ours))
            for mine, other in zip(ours, theirs, strict=True):
                yield (mine.double() - other.double()).norm() / (allowed * mine.double().norm().clamp_min(1e-30))

        return _told(excess())

    return agreement


def moves(share: float) -> Agreement:
    """Compares updated tensors as wholes: the length of the difference may be this share of the move's."""

    def agreement(inputs: Tensors, ours: Tensors, theirs: Tensors) -> str:
        def excess() -> Iterator[Tensor]:
            for before, mine, other in zip(inputs, ours, theirs, strict=True):
                allowed = share * (mine.double() - before.double()).norm()
                yield (mine.double() - other.double()).norm() / allowed.clamp_min(1e-30)

        return _told(excess())

    return agreement


def moments(spatial: bool = False) -> Agreement:
    """Compares means and mean squares of random results; if ``spatial``, whole channels are dropped together."""

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
