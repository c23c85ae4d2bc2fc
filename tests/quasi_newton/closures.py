"""Closures, and problems to call them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import fastopt

METHODS: dict[str, Callable[..., Any]] = {"LBFGS": fastopt.LBFGS, "NonlinearCG": fastopt.NonlinearCG}
SEARCHES = ["strong_wolfe", "hager_zhang", "armijo"]


def closure_of(params: Sequence[Tensor], loss_of: Callable[[], Any]) -> Callable[[], Any]:
    """Clears the gradients, computes the loss and its gradients."""

    def closure() -> Any:
        for param in params:
            param.grad = None
        loss = loss_of()
        loss.backward()
        return loss

    return closure


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def quadratic(params: Sequence[Tensor]) -> Tensor:
    """Its curvature differs from element to element; the minimum is 0, at numbers between -1 and 1."""
    loss = torch.zeros((), dtype=torch.float64)
    for k, param in enumerate(params):
        real = torch.view_as_real(param) if param.is_complex() else param
        at = torch.linspace(-1, 1, real.numel(), dtype=torch.float64).reshape(real.shape) * (1 if k % 2 else -1)
        weight = torch.linspace(0.5, 3 + k, real.numel(), dtype=torch.float64).reshape(real.shape)
        loss = loss + (weight * (real.double() - at) ** 2).sum()
    return loss


def minimized(name: str, params: Sequence[Tensor], loss_of: Callable[[], Any], steps: int = 1, **options: Any) -> Any:
    """Returns the optimizer after its steps."""
    optimizer = METHODS[name](params, **options)
    for _ in range(steps):
        optimizer.step(closure_of(params, loss_of))
    return optimizer
