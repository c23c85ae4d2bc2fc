"""Checks of arguments that optimizers and modules share."""

from __future__ import annotations

from typing import Any

from torch import nn


def check_every(every: Any) -> None:
    """Refuses what is no number of times."""
    if not isinstance(every, int) or isinstance(every, bool):
        raise TypeError(f"every must be an integer, not {type(every).__name__}")
    if every < 1:
        raise ValueError(f"Invalid every value: {every}")


def check_module(what: str, value: Any) -> None:
    """Refuses anything that is no module: parameters, state dicts, classes."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{what} has to be a torch.nn.Module, but got {type(value).__name__}")
