"""What one step runs on a GPU, by the profiler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch.autograd import DeviceType

from .figures import Row

SCOPES = ("void ", "(anonymous namespace)::", "fastopt::", "cuda::")
WIDEST = 100  # characters of a name


class Kernel(NamedTuple):
    """A kernel, a copy or a fill."""

    name: str
    us: float


def _name(symbol: str) -> str:
    for scope in SCOPES:
        symbol = symbol.replace(scope, "")
    return symbol.partition("(")[0][:WIDEST]


def kernels(events: Iterable[Any]) -> list[Kernel]:
    """The kernels among the events of a profile, in their order."""
    on_device = (event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation)
    return [Kernel(_name(event.name), event.time_range.elapsed_us()) for event in on_device]


def lines(rows: Iterable[Row]) -> Iterator[list[str]]:
    """The case, the kernel and its duration, for all kernels of fastopt."""
    for row in rows:
        for name, us in row.kernels:
            yield [row.case, f"`{name}`", f"{us:.1f}"]
