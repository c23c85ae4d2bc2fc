"""What several processes do together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gathered(own: Tensor, group: Any) -> Tensor:
    """Gathers what each process of the group has, in the order of the ranks, so that all compute the same bits."""
    everybodys = own.new_empty((dist.get_world_size(group), *own.shape))
    dist.all_gather(list(everybodys), own, group=group)
    return everybodys


def any_others() -> bool:
    """Whether there may be other processes: a quick answer, for every step."""
    return dist.is_available() and dist.is_initialized()


def cores() -> int:
    """Counts the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_this_machine() -> int:
    """Returns how many processes torchrun, or a launcher like it, has started on this machine; 1 without one."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(count) if count.isdecimal() and int(count) > 0 else 1


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Lets torch, and with it the kernels, use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def launchers_cores() -> int:
    """Counts the cores on which the process that has started this one may run; 0 where nothing tells."""
    try:
        return len(os.sched_getaffinity(os.getppid()))
    except (AttributeError, OSError):
        return 0


def thread_budget() -> int:
    """Returns how many threads this process may use, so that all that a launcher has started here have their share.

    Where the launcher has bound each process to cores, these are fewer than the launcher's, and not shared.
    """
    own = cores()
    return own if own < launchers_cores() else max(own // on_this_machine(), 1)


def thread_note(threads: int) -> str:
    """Returns a note on this number of threads in each process; "" where none is needed."""
    processes, have = on_this_machine(), cores()
    share = thread_budget()
    if threads == share or (processes == 1 and threads < have):
        return ""
    torchruns = threads == 1 and os.environ.get("OMP_NUM_THREADS") == "1"
    why = " (OMP_NUM_THREADS=1, as torchrun sets it)" if torchruns else ""
    return (
        f"processes on this machine: {processes}, threads of each: {threads}{why}, cores: {have}; "
        f"torch.set_num_threads({share}) gives each its share"
    )
