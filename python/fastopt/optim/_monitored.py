"""What a step and the monitor of its optimizer (``fastopt.monitor``) have to do with each other."""

from __future__ import annotations

import math
from typing import Any, Protocol
from weakref import ref

import torch
from torch import Tensor

from .. import _runtime
from ._sharded import sharding_of
from ._update import Subject

MONITORED = "fastopt.monitor, which takes norms of whole parameters"
REMOVED = "remove() the monitor"
# In the optimizer's __dict__, which copies and checkpoints of an optimizer leave behind.
_KEY = "_monitor"
_CAPTURED = "_captured_tables"

_COLUMNS = 4  # sums of squares of gradient, parameter and update; the number of elements that are not finite
_COUNT = 3  # the column that is NaN only where nothing was measured
_MOVED = slice(1, 3)  # the columns of parameter and update


class Tables:
    """Where one step leaves its statistics: a table on each device that has a parameter with a gradient. Each table has
    a row for each parameter of the optimizer.

    Args:
        rows: how many parameters there are.
        before: the tables of an earlier step, which are used again.
    """

    def __init__(self, rows: int, before: Tables | None = None) -> None:
        self._rows = rows
        self._before = {} if before is None else before._tables
        self._tables: dict[torch.device, Tensor] = {}

    def of(self, param: Tensor) -> Tensor:
        """Returns the table on a parameter's device."""
        table = self._tables.get(param.device)
        if table is None:
            table = self._tables[param.device] = self._table_on(param.device)
        return table

    def _table_on(self, device: torch.device) -> Tensor:
        known = self._before.get(device)
        if known is not None and len(known) == self._rows:
            return known
        table = torch.full((self._rows, _COLUMNS), math.nan, dtype=torch.float64, device=device)
        if known is not None:  # a device that skips the step leaves the numbers of the step before
            both = min(self._rows, len(known))
            table[:both] = known[:both]
        return table

    def blank(self) -> Tables:
        """Returns tables of the same size for the second pass of a step."""
        return Tables(self._rows)

    def take_movement(self, other: Tables) -> None:
        """Takes parameter and update, where another pass has measured them. Waits for no device."""
        for device, moved in other._tables.items():
            table = self._tables[device]
            measured = ~moved[:, _COUNT:].isnan()
            table[:, _MOVED] = torch.where(measured, moved[:, _MOVED], table[:, _MOVED])

    def read(self) -> list[list[float]]:
        """Returns the rows of all parameters, of NaN where nothing was measured. Waits for the devices."""
        tables = [table.tolist() for table in self._tables.values()]
        return [
            next((row for row in rows if not math.isnan(row[_COUNT])), rows[0]) for rows in zip(*tables, strict=True)
        ]


class Monitor(Protocol):
    def tables_of_step(self) -> Tables | None:
        """Returns where the step leaves its statistics, None if it leaves none."""

    def end_of_step(self, tables: Tables | None) -> None:
        """Takes the tables when a step has updated all groups."""

    def tables_of_last_step(self) -> Tables | None:
        """Returns the tables that were taken last, None if that step left no statistics."""


def monitor_of(optimizer: Any) -> Monitor | None:
    """Returns an optimizer's monitor, as long as somebody has it."""
    known: ref[Monitor] | None = optimizer.__dict__.get(_KEY)
    return None if known is None else known()


def set_monitor(optimizer: Any, monitor: Monitor | None) -> None:
    optimizer.__dict__.pop(_KEY, None)
    if monitor is not None:
        optimizer.__dict__[_KEY] = ref(monitor)


def keep_captured(optimizer: Any, tables: Tables | None) -> None:
    """Keeps the tables of a step that is captured as long as the optimizer: the CUDA graph writes to their memory in
    every replay."""
    if tables is not None and _runtime.capturing():
        optimizer.__dict__.setdefault(_CAPTURED, []).append(tables)


def refuse_parts(subject: Subject, sparse: str | None) -> None:
    """Refuses a parameter of which the engine sees only a part; ``sparse`` is what sparse gradients update."""
    if sharding_of(subject.owner).sharded_dims is not None:
        raise RuntimeError(f"{subject.name} is a DTensor of which each process has a part; {MONITORED}: {REMOVED}")
    if sparse == "rows" and subject.owner.grad is not None and subject.owner.grad.is_sparse:
        raise RuntimeError(f"{subject.name} has a sparse gradient, which updates rows; {MONITORED}: {REMOVED}")
