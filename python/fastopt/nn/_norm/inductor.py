"""Norms in operations that torch's inductor fuses with their neighbours. In a compiled CNN this saves a pass over
memory and a change of layout at each convolution, which a call of our kernels could not save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def enter(operations: dict[Any, Callable[..., Any]]) -> bool:
    """Tells inductor what our operators do, in torch's. It is called while a program is traced, before inductor
    compiles it. Other backends call the kernels."""
    try:
        from torch._inductor import decomposition

        table, again = decomposition.decompositions, decomposition.fast_random_decomps.cache_clear
    except (ImportError, AttributeError):  # torch has renamed its private parts: inductor calls the kernels then
        return False
    if not operations.keys() <= table.keys():
        table.update(operations)
        again()
    return True
