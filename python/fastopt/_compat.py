"""What differs between the versions of torch we run with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _increment_version() -> Callable[[list[Tensor]], None]:
    """torch's own function, past its Python wrapper where it takes many tensors (torch 2.4: one)."""
    native: Any = torch._C._increment_version
    try:
        native([])
        return native  # type: ignore[no-any-return]
    except (TypeError, AttributeError, RuntimeError):

        def one_by_one(tensors: list[Tensor]) -> None:
            for tensor in tensors:
                native(tensor)

        return one_by_one


# Tells autograd that the tensors' memory is written behind its back.
increment_version = _increment_version()


def accepted(cls: type, **options: Any) -> dict[str, Any]:
    """Those of the options that this torch's class has as arguments."""
    known = inspect.signature(cls).parameters
    return {key: value for key, value in options.items() if key in known}
