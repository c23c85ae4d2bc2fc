"""What torch's autocast does to some norms."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from .checks import HALF

Tensors = TypeVar("Tensors", bound=tuple[Tensor | None, ...])


def widened(tensors: Tensors) -> Tensors:
    """Returns what torch's own norms get under autocast: on CUDA, its layer_norm, rms_norm and group_norm run in
    float32. On the CPU autocast leaves them alone."""
    input = tensors[0]
    if input is None or not input.is_cuda or not torch.is_autocast_enabled("cuda"):
        return tensors
    return tuple(t.float() if t is not None and t.dtype in HALF else t for t in tensors)  # type: ignore[return-value]
