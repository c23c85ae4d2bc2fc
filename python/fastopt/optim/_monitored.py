"""What a step and the monitor of its optimizer (``fastopt.monitor``) have to do with each other."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import ref

from torch import Tensor

from ._sharded import sharding_of
from ._update import Subject

MONITORED = "fastopt.monitor, which takes norms of whole parameters"
REMOVED = "remove() the monitor"
_KEY = "_monitor"  # in the optimizer's __dict__, which copies and checkpoints of an optimizer leave behind


class Monitor(Protocol):
    def table_of_step(self) -> Tensor | None:
        """Returns where the step leaves its statistics, None if it leaves none."""

    def end_of_step(self, table: Tensor | None) -> None:
        """Takes the table when a step has updated all groups."""

    def table_of_last_step(self) -> Tensor | None:
        """Returns the table that was taken last, None if that step left no statistics."""


def monitor_of(optimizer: Any) -> Monitor | None:
    """Returns an optimizer's monitor, as long as somebody has it."""
    known: ref[Monitor] | None = optimizer.__dict__.get(_KEY)
    return None if known is None else known()


def set_monitor(optimizer: Any, monitor: Monitor | None) -> None:
    optimizer.__dict__.pop(_KEY, None)
    if monitor is not None:
        optimizer.__dict__[_KEY] = ref(monitor)


def refuse_parts(subject: Subject, sparse: str | None) -> None:
    """Refuses a parameter of which the engine sees only a part; ``sparse`` is what sparse gradients update."""
    if sharding_of(subject.owner).sharded_dims is not None:
        raise RuntimeError(f"{subject.name} is a DTensor of which each process has a part; {MONITORED}: {REMOVED}")
    if sparse == "rows" and subject.owner.grad is not None and subject.owner.grad.is_sparse:
        raise RuntimeError(f"{subject.name} has a sparse gradient, which updates rows; {MONITORED}: {REMOVED}")
