"""What the tests minimize: smooth functions of one vector in float64, each with a point to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A smooth function. ``function`` takes a vector as long as ``start`` and returns f, a scalar."""

    name: str
    function: Callable[[Tensor], Tensor]
    start: tuple[float, ...]

    def value(self, x: Tensor) -> Tensor:
        return self.function(x)

    def point(self) -> Tensor:
        """Returns the start as a new tensor."""
        return torch.tensor(self.start, dtype=torch.float64)

    def value_and_gradient(self, x: Tensor) -> tuple[float, Tensor]:
        x = x.detach().requires_grad_()
        value = self.value(x)
        return value.item(), torch.autograd.grad(value, x)[0]


@dataclass(frozen=True)
class Problem(Objective):
    """A sum of squares. Here ``function`` returns the residuals, and f is the sum of their squares.

    ``minima`` are the known values of f at local minimizers, to about six digits. Some are limits of f at infinity.
    """

    minima: tuple[float, ...]

    @property
    def residuals(self) -> Callable[[Tensor], Tensor]:
        return self.function

    def value(self, x: Tensor) -> Tensor:
        return self.residuals(x).square().sum()
