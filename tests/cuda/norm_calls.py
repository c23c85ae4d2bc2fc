"""Calls of the norms' kernels as test data: on a device they have the CPU's bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastopt import _core, _runtime
from gpu import DEVICE, gpu
from support import HALF, assert_same_bits, some_values

ACTIVATIONS = ["identity", "relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "hardswish"]
ROWS = ["rms", "rms_rounded", "layer"]
GRADIENTS = ("grad_input", "grad_weight", "grad_bias")

Placed = Callable[[Tensor], Tensor]


def on_device(tensor: Tensor) -> Tensor:
    return tensor.to(DEVICE, copy=True)


@dataclass
class Norm:
    """A forward and a backward pass. ``size`` is the length of rows, or the number of groups."""

    kind: str
    shape: tuple[int, ...]
    size: int
    dtype: torch.dtype = torch.float32
    activation: str = "identity"
    residual: bool = False  # and a gradient of the sum
    parameters: str = "weight bias"
    wide: bool = True  # parameters of half types are float32
    channels_last: bool = False
    wanted: tuple[str, ...] = GRADIENTS
    shift: float = 3.0

    def values(self, seed: int, shift: float = 0.0) -> Tensor:
        values = (some_values(self.shape, torch.float64, seed) + shift).to(self.dtype)
        return values.contiguous(memory_format=torch.channels_last) if self.channels_last else values

    def parameter(self, name: str, seed: int) -> Tensor | None:
        count = self.shape[1] if self.kind == "group" else self.size
        dtype = torch.float32 if self.dtype in HALF and self.wide else self.dtype
        return some_values(count, dtype, seed) if name in self.parameters.split() else None

    def operands(self) -> dict[str, Tensor | None]:
        return {
            "input": self.values(1, self.shift),
            "residual": self.values(2) if self.residual else None,
            "weight": self.parameter("weight", 3),
            "bias": self.parameter("bias", 4),
            "grad": self.values(5),
            "grad_sum": self.values(6) if self.residual else None,
        }

    def run(self, kernels: Any, place: Placed, operands: dict[str, Tensor | None]) -> dict[str, Tensor]:
        given = {name: None if tensor is None else place(tensor) for name, tensor in operands.items()}
        sets = self.shape[0] * self.size if self.kind == "group" else operands["input"].numel() // max(self.size, 1)
        x, residual, weight, bias = (given[name] for name in ("input", "residual", "weight", "bias"))
        new = {"out": torch.full_like(operands["input"], 7), "statistics": torch.full((2, sets), 7.0).double()}
        if self.residual:
            new["sum"] = torch.full_like(operands["input"], 7)
        for name in self.wanted:
            like = operands[name.removeprefix("grad_")]
            if like is not None:
                new[name] = torch.full_like(like, 7)
        new = {name: place(tensor) for name, tensor in new.items()}
        how = (self.activation, 0.1, 2)
        statistics, total = new["statistics"], new.get("sum")
        assert kernels.norm(new["out"], total, x, residual, weight, bias, statistics, self.kind, self.size, 1e-5, *how)
        results = [new.get(name) for name in GRADIENTS]
        inputs = (given["grad"], given["grad_sum"], x if total is None else total, weight, bias, statistics)
        assert kernels.norm_backward(*results, *inputs, self.kind, self.size, *how)
        return new

    def check(self, place: Placed = on_device, operands: dict[str, Tensor | None] | None = None) -> None:
        """Compares all results with the CPU's."""
        operands = self.operands() if operands is None else operands
        expected = self.run(_core, torch.clone, operands)
        with gpu():
            ours = self.run(_runtime.kernels, place, operands)
        for name, value in expected.items():
            assert_same_bits(ours[name].cpu(), value, f"{name} of {self}")
