"""The tensors of a normalization: which ones the engine takes, and their numbers in float64."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import torch
from torch import Tensor

from . import half
from .half import Array
from .operands import dense, known
from .step import flat


def takes_input(input: Tensor) -> bool:
    return known(input) and dense(input) and not input.is_complex()


def takes_vector(parameter: Tensor, types: Container[torch.dtype]) -> bool:
    """Whether this may be a parameter or its gradient, apart from its size."""
    return known(parameter) and parameter.is_contiguous() and parameter.dtype in types


def numbers(tensor: Tensor | None, default: float, count: int) -> Array:
    """Returns the elements of a parameter or statistic in float64."""
    if tensor is None:
        return np.full(count, default)
    return half.load(flat(tensor)).astype(np.float64)


def round_into(tensor: Tensor | None, values: Array) -> None:
    if tensor is not None:
        out = flat(tensor)
        half.store(values.astype(np.float64 if out.dtype == np.float64 else np.float32), out)
