"""Hands calls over to arguments that define ``__torch_function__``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function


# Each function asks by itself whether to do so: a decorator would cost every call another Python frame.
def handed_over(function: Callable[..., Tensor], tensors: tuple[Any, ...], **arguments: Any) -> Tensor:
    return handle_torch_function(function, tensors, *tensors, **arguments)


def options_of(
    residual: Tensor | None, return_sum: bool, activation: str | None, negative_slope: float
) -> dict[str, Any]:
    """The options that the norms of single samples share."""
    return {
        "residual": residual,
        "return_sum": return_sum,
        "activation": activation,
        "negative_slope": negative_slope,
    }
