"""Range checks of optimizers that torch does not have, with its error texts."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def check_range(what: str, value: Any, below: float | None = None) -> None:
    if not (value >= 0 and (below is None or value < below)):
        raise ValueError(f"Invalid {what}: {value}")


def check_lr(lr: Any) -> None:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    check_range("learning rate", lr)


def check_betas(betas: Any) -> None:
    for i in range(2):
        check_range(f"beta parameter at index {i}", betas[i], below=1.0)
