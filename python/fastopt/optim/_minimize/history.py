"""The pairs (s, y) of L-BFGS, and the direction made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _runtime
from .vectors import Vectors


class History:
    """Steps s and changes of the gradient y, the oldest first, in the lists that torch's LBFGS has in its state, and
    their products s.y and y.y: with these a direction reads all pairs twice.

    Args:
        vectors: of the parameters.
        steps: the list of all s.
        changes: the list of all y.
    """

    def __init__(self, vectors: Vectors, steps: list[Tensor], changes: list[Tensor]) -> None:
        self.vectors, self.steps, self.changes = vectors, steps, changes
        self.first = 0  # the oldest pair's row of the matrices, which go round
        self.step_changes, self.change_changes = self._matrix(len(steps)), self._matrix(len(steps))
        self._spare: tuple[Tensor, Tensor] | None = None
        for k in range(len(steps)):
            self._multiply_again(k)

    def _matrix(self, capacity: int) -> Tensor:
        return self.vectors.numbers(capacity * capacity).reshape(capacity, capacity)

    def _multiply_again(self, k: int) -> None:
        """Takes the products of a pair with all older ones, for pairs out of a checkpoint."""
        steps, changes = self.steps[: k + 1], self.changes[: k + 1]
        with_change = self.vectors.products(steps, changes, changes[k])
        self.step_changes[k, : k + 1] = self.step_changes[: k + 1, k] = with_change[0, :, 0]
        self.change_changes[k, : k + 1] = self.change_changes[: k + 1, k] = with_change[1, :, 0]

    def drop_oldest(self) -> None:
        """Drops a pair, whose memory the next one takes."""
        self._spare = self.steps.pop(0), self.changes.pop(0)
        self.first = (self.first + 1) % len(self.step_changes)

    def _grow(self) -> None:
        """Doubles the matrices, and puts the oldest pair first."""
        size = len(self.step_changes)
        order = (torch.arange(size, device=self.vectors.device) + self.first) % max(size, 1)
        for name in ("step_changes", "change_changes"):
            larger = self._matrix(max(2 * size, 8))
            larger[:size, :size] = getattr(self, name)[order][:, order]
            setattr(self, name, larger)
        self.first = 0

    def direct(self, out: Tensor, grad: Tensor, new: tuple[Tensor, Tensor, float] | None) -> list[float]:
        """Sets ``out`` to the direction -H g.

        Args:
            out: the direction.
            grad: the gradient g.
            new: the gradient before, the direction since and how far the step went along it, where they are a pair to
                be added.

        Returns:
            max |d|, d.d and g.d.
        """
        if new is not None:
            if len(self.steps) == len(self.step_changes):
                self._grow()
            s, y = self._spare or (self.vectors.new(), self.vectors.new())
            self._spare = None
            self.steps.append(s)
            self.changes.append(y)
        count = len(self.steps)
        products = self.vectors.products(self.steps, self.changes, grad, *(new or ()))
        coefficients = self.vectors.numbers(1 + 2 * count)
        _runtime.kernels.history_coefficients(
            coefficients, self.step_changes, self.change_changes, products, count, self.first, new is not None
        )
        return self.vectors.combine(out, grad, self.steps + self.changes, coefficients)
