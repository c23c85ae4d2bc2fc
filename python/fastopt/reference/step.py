"""The engine's interface (``_core.Step``) in NumPy: one step of one optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._compat import increment_version
from . import half
from .caution import Caution
from .half import Array
from .pipeline import RULES, clip_coefficient, join, terms, update
from .reductions import norm
from .storage import NOTHING, Kept, Rounding


class Storage(NamedTuple):
    """How a parameter is kept: tensors, or None where an option is off."""

    master: Tensor | None
    average: Tensor | None
    copy: Tensor | None
    scales: tuple[Tensor | None, ...]
    average_weight: float
    rounding: Rounding

    def written(self) -> list[tuple[Tensor, bool, str]]:
        states = (self.master, self.average, *self.scales)
        tensors = [(state, True, "state") for state in states if state is not None]
        return tensors + ([(self.copy, True, "copy")] if self.copy is not None else [])

    def arrays(self) -> Kept:
        def of(tensor: Tensor | None) -> Array | None:
            return None if tensor is None else flat(tensor)

        scales = (*map(of, self.scales), *(None,) * 8)
        return Kept(of(self.master), of(self.average), of(self.copy), scales, self.average_weight, self.rounding)


class _Task(NamedTuple):
    rule: str
    owner: Tensor
    param: Tensor
    grad: Tensor | None
    states: tuple[Tensor, ...]
    counters: list[tuple[Tensor, float, str]]  # scalars among the states, their next values, their role
    prologue: dict[str, float]
    scalars: dict[str, float]
    max_grad_norm: float
    storage: Storage | None
    row: int | None  # for the statistics
    caution: Caution

    def arrays(self) -> tuple[str, Array, Array | None, list[Array], dict[str, float], dict[str, float]]:
        """The rule, its flat operands and its scalars."""
        grad = None if self.grad is None else flat(self.grad)
        return self.rule, flat(self.param), grad, [*map(flat, self.states)], self.prologue, self.scalars

    def kept(self) -> Kept:
        return NOTHING if self.storage is None else self.storage.arrays()


def flat(tensor: Tensor) -> Array:
    """Returns the memory of a dense CPU tensor as a 1-D array, with complex numbers as pairs."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    tensor = tensor.as_strided((tensor.numel(),), (1,))
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(half.bfloat16)
    return tensor.numpy()


class Step:
    """See ``csrc/engine/optim/step.h``. It takes only prepared parameters: the slow path has checked them."""

    def __init__(self) -> None:
        self._tasks: list[_Task] = []
        self._scalars: Callable[..., dict[str, float]] | None = None
        self._table_of: Callable[[Tensor], Tensor] | None = None
        self._table: Tensor | None = None
        self._shared: Tensor | None = None
        self._measured: dict[int, Tensor] = {}  # rows of the table

    def add_group(
        self,
        update: tuple[Any, ...],
        prologue: dict[str, float],
        max_grad_norm: float,
        scalars: Callable[..., dict[str, float]],
        params: list[Tensor],
        state: dict[Tensor, dict[str, Any]],
        learning_rate: None,
        storage: tuple[Any, ...] | None = None,
    ) -> list[int]:
        self._rule, _, _, self._carried, _, masks, decays, *_ = update
        self._caution = Caution(masks, decays)
        self._storage = storage
        self._prologue, self._max_grad_norm, self._scalars = prologue, max_grad_norm, scalars
        reads_grad = self._rule in RULES and RULES[self._rule].reads_grad
        return [i for i, param in enumerate(params) if not reads_grad or param.grad is not None]

    def leave_statistics(self, table_of: Callable[[Tensor], Tensor], first: int, indices: list[int] | None) -> None:
        self._table_of, self._first_row, self._more_rows = table_of, first, indices

    def share(self, numbers: Tensor) -> None:
        self._shared = numbers

    def add_prepared(
        self,
        index: int,
        owner: Tensor,
        param: Tensor,
        grad: Tensor | None,
        states: tuple[Tensor, ...],
        step: Tensor | None,
        carried: tuple[Tensor, ...],
        t: int,
        storage: tuple[Any, ...] | None = None,
    ) -> bool:
        assert self._scalars is not None, "add_prepared() follows an add_group()"
        counters: list[tuple[Tensor, float, str]] = []
        if step is not None:
            t = int(step.item()) + 1
            counters.append((step, t, "step"))
        scalars = dict(self._scalars(t, *(tensor.item() for tensor in carried)))
        for key, tensor in zip(self._carried, carried, strict=True):
            counters.append((tensor, scalars.pop(key), "state"))
        kept = None
        if self._storage is not None and storage is not None:
            *_, numbers, firsts, seed, random_param, random_states = self._storage
            rounding = Rounding(seed, numbers[index], firsts[index], t, random_param, random_states)
            master, average, copy, scales = storage
            weight = scalars.pop("ema_weight", 0.0)
            kept = Storage(master, average, copy, scales, weight, rounding)
        row = None
        if self._table_of is not None and grad is not None:
            self._table = self._table_of(param)
            row = self._first_row + (index if self._more_rows is None else self._more_rows[index])
        common = self._prologue, scalars, self._max_grad_norm, kept, row, self._caution
        self._tasks.append(_Task(self._rule, owner, param, grad, states, counters, *common))
        return True

    def add_fresh(self, index: int, param: Tensor, entries: dict[str, Any]) -> bool:
        return False

    def _ranges(self) -> list[tuple[int, int, bool, Tensor, str]]:
        """Returns (begin, end, written, owner, role) of every operand that has memory, by address."""
        found = []
        for task in self._tasks:
            unscales = task.prologue["loss_scale"] != 1
            operands = [(task.param, True, "parameter")]
            operands += [(task.grad, unscales, "gradient")] if task.grad is not None else []
            operands += [(state, True, "state") for state in task.states]
            operands += [(counter, True, role) for counter, _, role in task.counters]
            operands += task.storage.written() if task.storage is not None else []
            for tensor, written, role in operands:
                begin = tensor.data_ptr()
                end = begin + tensor.numel() * tensor.element_size()
                if end > begin:
                    found.append((begin, end, written, task.owner, role))
        return sorted(found, key=lambda r: r[0])

    def check_overlap_and_bump_versions(self) -> tuple[Tensor, str, Tensor, str] | None:
        open_ranges: list[tuple[int, int, bool, Tensor, str]] = []
        for later in self._ranges():
            open_ranges = [r for r in open_ranges if r[1] > later[0]]
            for earlier in open_ranges:
                if earlier[2] or later[2]:
                    return earlier[3], earlier[4], later[3], later[4]
            open_ranges.append(later)
        unscaled = [t.grad for t in self._tasks if t.grad is not None and t.prologue["loss_scale"] != 1]
        copies = [t.storage.copy for t in self._tasks if t.storage is not None and t.storage.copy is not None]
        increment_version([task.param for task in self._tasks] + unscaled + copies)
        return None

    def norm(self, reduction: str, exponent: float, loss_scale: float, threads: int) -> float:
        measured = [task.param if task.grad is None else task.grad for task in self._tasks if task.max_grad_norm >= 0]
        return norm(reduction, [half.load(flat(tensor)) for tensor in measured], exponent) / loss_scale

    def clip(self, norm: float) -> None:
        for i, task in enumerate(self._tasks):
            if task.max_grad_norm >= 0:
                factor = task.prologue["grad_factor"] * clip_coefficient(task.max_grad_norm, norm)
                self._tasks[i] = task._replace(prologue={**task.prologue, "grad_factor": factor})

    def run_some(self, owners: list[Tensor], threads: int) -> None:
        assert self._shared is None, "a grouped rule updates all parameters at once"
        chosen = set(map(id, owners))
        for task in self._tasks:
            if id(task.owner) in chosen:
                self._update(task, None)
        self._tasks = [task for task in self._tasks if id(task.owner) not in chosen]

    def run(self, threads: int) -> None:
        scale = self._scale_of_groups()
        for task in self._tasks:
            self._update(task, scale)
        self._write_statistics()
        self.clear()

    def _update(self, task: _Task, scale: float | None) -> None:
        shape = None
        if task.rule in RULES and RULES[task.rule].factored:
            rows, columns = task.param.shape[-2:]
            shape = (math.prod(task.param.shape[:-2]), rows, columns)
        how = shape, task.kept(), task.row is not None, task.caution, scale
        measured = update(*task.arrays(), *how)
        if task.row is not None:
            self._measured[task.row] = torch.tensor(measured, dtype=torch.float64)
        for counter, value, _ in task.counters:
            np.copyto(counter.detach().numpy(), value, casting="unsafe")

    def _write_statistics(self) -> None:
        if self._table is None:
            return
        self._table.fill_(math.nan)
        for row, measured in self._measured.items():
            self._table[row] = measured

    def _scale_of_groups(self) -> float | None:
        """Of a grouped rule: makes its scale, and moves on the numbers that the groups share."""
        tasks = [task for task in self._tasks if task.param.numel()]
        if self._shared is None or not tasks:
            return None
        shared = flat(self._shared)
        sums = [terms(*task.arrays(), shared, task.kept()) for task in tasks]
        return join(tasks[0].rule, sums, shared, tasks[0].scalars)

    def clear(self) -> None:
        self._tasks.clear()
        self._measured.clear()
        self._scalars = self._table_of = self._table = self._shared = None
