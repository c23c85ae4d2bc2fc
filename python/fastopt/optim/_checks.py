"""Checks of arguments that torch does not make, with its error texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_number(what: str, value: Any) -> None:
    """Refuses anything that is not a number, even a string that float() would take."""
    if not hasattr(value, "__float__"):
        raise TypeError(f"{what} has to be a number, but is {value!r}")


def check_range(what: str, value: Any, below: float | None = None) -> None:
    check_number(what, value)
    if not (value >= 0 and (below is None or value < below)):
        raise ValueError(f"Invalid {what}: {value}")


def check_state_dtype(state_dtype: Any) -> None:
    """For states that no narrower type is offered for."""
    if state_dtype not in (None, torch.float32):
        raise ValueError(f"Invalid state_dtype: {state_dtype}, not None or torch.float32")


def check_lr(lr: Any) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    check_range("learning rate", lr)


def check_betas(betas: Any, count: int = 2) -> None:
    if len(betas) != count:
        raise ValueError(f"Invalid betas: {betas}, not {count} numbers")
    for i in range(count):
        check_range(f"beta parameter at index {i}", betas[i], below=1.0)


def check_adam(group: dict[str, Any], betas: int = 2) -> None:
    """The numbers that Adam's relatives have: ``lr``, ``betas``, ``eps`` and ``weight_decay``."""
    check_lr(group["lr"])
    check_betas(group["betas"], betas)
    check_range("epsilon value", group["eps"])
    check_range("weight_decay value", group["weight_decay"])
