"""Objects that define ``__torch_function__``."""

from __future__ import annotations

from typing import Any

from torch.overrides import handle_torch_function


def handed_over(function: Any, tensors: tuple[Any, ...], **arguments: Any) -> Any:
    return handle_torch_function(function, tensors, *tensors, **arguments)
