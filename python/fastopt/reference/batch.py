"""The engine's interface (``_core.Batch``) on NumPy: one step of one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._compat import increment_version
from . import half
from .half import Array
from .pipeline import update


class _Task(NamedTuple):
    rule: str
    owner: Tensor
    param: Tensor
    grad: Tensor
    states: tuple[Tensor, ...]
    step: Tensor | None
    t: int
    prologue: dict[str, float]
    scalars: dict[str, float]


def _flat(tensor: Tensor) -> Array:
    """The memory of a dense CPU tensor as a 1-D array; complex numbers as pairs."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    tensor = tensor.as_strided((tensor.numel(),), (1,))
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(half.bfloat16)
    return tensor.numpy()


class Batch:
    """See ``csrc/batch.h``. Takes no parameter unprepared: the optimizer's preparation checks all."""

    def __init__(self) -> None:
        self._tasks: list[_Task] = []
        self._scalars: Callable[[int], dict[str, float]] | None = None

    def take(
        self,
        rule: str,
        keys: tuple[str, ...],
        counts: bool,
        prologue: dict[str, float],
        scalars: Callable[[int], dict[str, float]],
        params: list[Tensor],
        state: dict[Tensor, dict[str, Any]],
    ) -> list[int]:
        self._rule, self._prologue, self._scalars = rule, prologue, scalars
        return [i for i, param in enumerate(params) if param.grad is not None]

    def add(
        self,
        owner: Tensor,
        param: Tensor,
        grad: Tensor,
        states: tuple[Tensor, ...],
        step: Tensor | None,
        t: int,
    ) -> None:
        assert self._scalars is not None, "add() follows a take()"
        if step is not None:
            t = int(step.item()) + 1
        self._tasks.append(_Task(self._rule, owner, param, grad, states, step, t, self._prologue, self._scalars(t)))

    def _ranges(self) -> list[tuple[int, int, bool, Tensor, str]]:
        """(begin, end, written, owner, role) of every operand that has memory, by address."""
        found = []
        for task in self._tasks:
            unscales = task.prologue["loss_scale"] != 1
            operands = [(task.param, True, "parameter"), (task.grad, unscales, "gradient")]
            operands += [(state, True, "state") for state in task.states]
            operands += [(task.step, True, "step")] if task.step is not None else []
            for tensor, written, role in operands:
                begin = tensor.data_ptr()
                end = begin + tensor.numel() * tensor.element_size()
                if end > begin:
                    found.append((begin, end, written, task.owner, role))
        return sorted(found, key=lambda r: r[0])

    def settle(self) -> tuple[Tensor, str, Tensor, str] | None:
        open_ranges: list[tuple[int, int, bool, Tensor, str]] = []
        for later in self._ranges():
            open_ranges = [r for r in open_ranges if r[1] > later[0]]
            for earlier in open_ranges:
                if earlier[2] or later[2]:
                    return earlier[3], earlier[4], later[3], later[4]
            open_ranges.append(later)
        grads = [task.grad for task in self._tasks if task.prologue["loss_scale"] != 1]
        increment_version([task.param for task in self._tasks] + grads)
        return None

    def run(self, threads: int) -> None:
        for task in self._tasks:
            param, grad, *states = map(_flat, (task.param, task.grad, *task.states))
            update(task.rule, param, grad, states, task.prologue, task.scalars)
            if task.step is not None:
                np.copyto(task.step.detach().numpy(), task.t, casting="unsafe")
        self.clear()

    def clear(self) -> None:
        self._tasks.clear()
        self._scalars = None
