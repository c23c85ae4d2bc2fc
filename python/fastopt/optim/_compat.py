"""What differs between the versions of torch we run with."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _takes_many() -> bool:
    try:
        torch.autograd.graph.increment_version(())  # type: ignore[no-untyped-call]
    except (TypeError, AttributeError, RuntimeError):
        return False
    return True


def _one_by_one(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        torch.autograd.graph.increment_version(tensor)  # type: ignore[no-untyped-call]


# Tells autograd that memory was written behind its back; torch 2.4 takes one tensor at a time.
increment_version: Any = torch.autograd.graph.increment_version if _takes_many() else _one_by_one


def accepted(cls: type, **options: Any) -> dict[str, Any]:
    """Those of the options that this torch's class has as arguments."""
    known = inspect.signature(cls).parameters
    return {key: value for key, value in options.items() if key in known}
