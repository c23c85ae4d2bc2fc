"""Batch normalization as test data: shapes around every boundary of the kernels, and the calls made with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fastopt.nn.functional as F
from support import HALF, some_values

ACTIVATIONS = [None, "relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "hardswish"]

# Columns: rows below and above 8 (for the shift), 128 (a flush block) and a chunk; channels that fold into lanes and
# that do not, with elements after the last full row; more columns than a span; short inner dimensions.
COLUMNS = [
    *[(2, 1), (2, 2), (8, 31), (3, 7), (7, 64), (9, 64), (129, 33), (300, 3), (700, 100), (2500, 40), (5, 1100)],
    *[(140, 1500), (16, 7, 3), (9, 5, 4, 3), (70, 24, 15)],
]
# Planes: segments shorter than a block, as long, and longer; several to a piece; last pieces that are shorter; chunks.
PLANES = [
    *[(2, 3, 16), (33, 5, 17), (4, 3, 7, 7), (150, 2, 7, 7), (30, 3, 128), (30, 3, 129), (40, 1, 6)],
    *[(3, 2, 1023), (3, 2, 1024), (3, 2, 1025), (1, 3, 5000), (5, 3, 28, 28), (2, 3, 4, 5, 6), (2, 2, 200, 180)],
]


def layout_of(shape: tuple[int, ...], channels_last: bool) -> torch.memory_format:
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last if len(shape) == 4 else torch.channels_last_3d


@dataclass
class Problem:
    """The operands of one call."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    residual: bool = False
    activation: str | None = None
    training: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def values(self, seed: int, shift: float = 0.0) -> Tensor:
        values = some_values(self.shape, torch.float64, seed) + shift
        layout = layout_of(self.shape, self.channels_last)
        return values.to(self.dtype).contiguous(memory_format=layout)

    def parameter(self, seed: int) -> Tensor:
        dtype = torch.float32 if self.dtype in HALF else self.dtype
        return some_values(self.shape[1], dtype, seed)

    def run(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """All results of a forward and a backward pass."""
        leaves = {"input": self.values(1, shift=3.0), "weight": self.parameter(2), "bias": self.parameter(3)}
        if self.residual:
            leaves["residual"] = self.values(4)
        leaves = {name: leaf.to(device).requires_grad_() for name, leaf in leaves.items()}
        running = {"running_mean": self.parameter(5).to(device), "running_var": self.parameter(6).abs().to(device)}
        y = F.batch_norm(
            leaves["input"],
            running["running_mean"],
            running["running_var"],
            leaves["weight"],
            leaves["bias"],
            self.training,
            activation=self.activation,
            residual=leaves.get("residual"),
            **self.options,
        )
        grads = torch.autograd.grad(y, list(leaves.values()), self.values(7).to(device))
        named = {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
        return {"result": y, **running, **named}
