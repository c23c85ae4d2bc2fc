"""Checks of arguments that optimizers and modules share."""

from __future__ import annotations

from typing import Any

from torch import nn


def check_module(what: str, value: Any) -> None:
    """Refuses anything that is no module: parameters, state dicts, classes."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{what} has to be a torch.nn.Module, but got {type(value).__name__}")
