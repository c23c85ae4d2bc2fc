"""What several processes do together."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from torch import Tensor


def gathered(own: Tensor, group: Any) -> Tensor:
    """What each process of the group has, in the order of the ranks: what all make of it has the same bits."""
    everybodys = own.new_empty((dist.get_world_size(group), *own.shape))
    dist.all_gather(list(everybodys), own, group=group)
    return everybodys


def any_others() -> bool:
    """Whether there may be other processes: a quick answer, for every step."""
    return dist.is_available() and dist.is_initialized()


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_this_machine() -> int:
    """How many processes torchrun, or a launcher that speaks like it, has started here; 1 without one."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(count) if count.isdecimal() and int(count) > 0 else 1


def thread_note(threads: int) -> str:
    """What is to be said about so many threads in each of them; "" where nothing is."""
    processes, have = on_this_machine(), cores()
    share = max(have // processes, 1)
    if threads == share or (processes == 1 and threads < have):
        return ""
    torchruns = threads == 1 and os.environ.get("OMP_NUM_THREADS") == "1"
    why = " (OMP_NUM_THREADS=1, as torchrun sets it)" if torchruns else ""
    return (
        f"processes on this machine: {processes}, threads of each: {threads}{why}, cores: {have}; "
        f"torch.set_num_threads({share}) gives each its share"
    )
