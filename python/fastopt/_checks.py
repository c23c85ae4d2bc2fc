"""Checks of arguments that optimizers and modules share."""

from __future__ import annotations

from typing import Any

from torch import nn


def check_module(what: str, value: Any) -> None:
    """An error for parameters, state dicts, classes and whatever else is given for a model."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{what} has to be a torch.nn.Module, but got {type(value).__name__}")
