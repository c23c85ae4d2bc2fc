"""The activations that the kernels apply, in torch's own operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# By the names that kernels know.
FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "relu6": lambda z, _: F.relu6(z),
    "leaky_relu": F.leaky_relu,
    "elu": lambda z, _: F.elu(z),
    "silu": lambda z, _: F.silu(z),
    "gelu": lambda z, _: F.gelu(z),
    "hardswish": lambda z, _: F.hardswish(z),
}

_aten = torch.ops.aten
# A change of z times the activation's derivative there, by operators that torch's forward mode supports.
_SLOPES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "relu": lambda change, z, _: _aten.threshold_backward(change, z, 0),
    "relu6": lambda change, z, _: _aten.hardtanh_backward(change, z, 0, 6),
    "leaky_relu": lambda change, z, slope: _aten.leaky_relu_backward(change, z, slope, False),
    "elu": lambda change, z, _: _aten.elu_backward(change, 1, 1, 1, False, z),
    "silu": lambda change, z, _: _aten.silu_backward(change, z),
    "gelu": lambda change, z, _: _aten.gelu_backward(change, z),
    "hardswish": lambda change, z, _: _aten.hardswish_backward(change, z),
}

# By the names that users give.
NAMES = tuple(_SLOPES)


def check_activation(name: str | None) -> None:
    if name is not None and name not in NAMES:
        known = ", ".join(f'"{known}"' for known in NAMES)
        raise ValueError(f"activation has to be None or one of {known}, but got {name!r}")


def through(name: str, change: Tensor, z: Callable[[], Tensor], negative_slope: float) -> Tensor:
    """Returns a change of z times the activation's derivative there. z is computed only if that depends on it."""
    return _SLOPES[name](change, z(), negative_slope) if name in _SLOPES else change
