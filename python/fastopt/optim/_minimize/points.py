"""Points at which the closure was evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .vectors import Vectors


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A point base + t d. ``loss`` is what is minimized; it is inf where loss or gradient is not finite, and no
    comparison with ``slope`` holds there. With y = g - the gradient at t = 0, the rest are sums over all elements."""

    t: float
    loss: float
    grad: Tensor
    largest: float  # max |g|
    magnitudes: float  # sum |g|
    squares: float  # g.g
    slope: float  # g.d
    slope_change: float  # y.d
    change_squares: float  # y.y
    change: float  # g.y

    @property
    def is_finite(self) -> bool:
        return self.loss < math.inf


class Evaluator:
    """Calls a closure at points along a direction, and counts the calls."""

    def __init__(self, closure: Callable[[], Any], vectors: Vectors, maximize: bool) -> None:
        self.closure, self.vectors, self.sign = closure, vectors, -1.0 if maximize else 1.0
        self.count = 0
        self.at = 0.0  # the t of the last evaluation
        self.base = self.direction = self.start = None  # type: Tensor | None

    def here(self, t: float, out: Tensor, direction: Tensor | None, previous: Tensor | None) -> tuple[Any, Point]:
        """Evaluates the closure at the parameters as they are, which are ``t`` along the direction.

        Returns:
            What the closure returned, and the point.
        """
        with torch.enable_grad():
            returned = self.closure()
        loss = self.sign * _number(returned)
        self.count += 1
        self.at = t
        sums = self.vectors.gather_grads(out, self.sign, direction, previous)
        largest, magnitudes, squares, slope, *changes = sums
        if not (math.isfinite(loss) and math.isfinite(largest)):
            loss, slope = math.inf, math.nan
        return returned, Point(t, loss, out, largest, magnitudes, squares, slope, *changes)

    def begin(self, base: Tensor, direction: Tensor, start: Point) -> None:
        """Evaluates along this direction from now on."""
        self.base, self.direction, self.start = base, direction, start.grad

    def __call__(self, t: float, *kept: Point) -> Point:
        """Evaluates at base + t d. Gradients of points that are not kept are overwritten."""
        self.move(t)
        used = [self.base, self.direction, self.start, *(point.grad for point in kept)]
        return self.here(t, self.vectors.take(*used), self.direction, self.start)[1]

    def move(self, t: float) -> None:
        """Sets the parameters to base + t d."""
        assert self.base is not None
        self.vectors.scatter(self.base, self.direction if t != 0 else None, t)
        self.at = t


def _number(loss: Any) -> float:
    if isinstance(loss, torch.Tensor) and loss.numel() != 1:
        raise RuntimeError(f"the closure has to return the loss, one number, but returned a tensor {tuple(loss.shape)}")
    if isinstance(loss, torch.Tensor) and loss.is_complex():
        raise RuntimeError(f"the closure returned a complex loss: {loss}")
    try:
        return float(loss)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the closure has to return the loss, a number, but returned {loss!r}") from error
