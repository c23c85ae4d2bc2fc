"""The dropout family as test data: one row per function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastopt.nn.functional as F
from support import some_values


@dataclass(frozen=True)
class Family:
    """A function of the family on tensors made for it."""

    name: str
    function: Callable[..., Tensor]
    residual: bool = False
    bias: bool = False
    complex: bool = False
    channels: bool = False  # the mask has the first two dimensions of the shape
    shape: tuple[int, ...] = (5, 70)
    training: bool = True

    def inputs(self, dtype: torch.dtype, shape: tuple[int, ...] | None = None, seed: int = 0) -> list[Tensor]:
        shape = self.shape if shape is None else shape
        found = [some_values(shape, dtype, seed)]
        if self.bias:
            found.append(some_values(shape[-1:], dtype, seed + 1))
        if self.residual:
            found.append(some_values(shape, dtype, seed + 2))
        return found

    def __call__(self, *inputs: Tensor, p: float = 0.3, seed: int | None = 5, **more: Any) -> Tensor:
        return self.function(*inputs, p, self.training, seed=seed, **more)

    def gradients(self, *inputs: Tensor, p: float = 0.3, seed: int = 5) -> list[Tensor]:
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        y = self(*leaves, p=p, seed=seed)
        return list(torch.autograd.grad(y, leaves, some_values(y.shape, y.dtype, 99)))

    def __str__(self) -> str:
        return self.name


FAMILY = [
    Family("dropout", F.dropout, complex=True),
    Family("dropout1d", F.dropout1d, channels=True, complex=True, shape=(5, 7, 9)),
    Family("dropout2d", F.dropout2d, channels=True, complex=True, shape=(5, 7, 3, 4)),
    Family("dropout3d", F.dropout3d, channels=True, complex=True, shape=(5, 7, 2, 3, 4)),
    Family("alpha_dropout", F.alpha_dropout),
    Family("feature_alpha_dropout", F.feature_alpha_dropout, channels=True, shape=(5, 7, 9)),
    Family("drop_connect", F.drop_connect, complex=True),
    Family("dropout_add", F.dropout_add, residual=True, complex=True),
    Family("bias_dropout_add", F.bias_dropout_add, residual=True, bias=True),
]
ONE_TENSOR = [family for family in FAMILY if not family.residual]
IN_PLACE = [family for family in ONE_TENSOR if family.name != "drop_connect"]
