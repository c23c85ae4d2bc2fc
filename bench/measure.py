"""Paired timing: the competitors take turns within one run, and only times of the same round are compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Step = Callable[[], object]
Burst = Callable[[int], object]  # takes a number of steps and runs them; may return the seconds they took
Rounds = dict[str, list[float]]  # seconds per step of each competitor, by round


@dataclass(frozen=True)
class Pace:
    """How long to measure."""

    seconds: float  # per case
    rounds: int = 7  # at least
    turn: float = 20e-3  # seconds


class Machine(Protocol):
    """What competitors run on."""

    rest: float  # seconds before a turn

    def time(self, burst: Burst, count: int) -> float:
        """Seconds per step."""

    def evict(self) -> None:
        """Fills the caches with other memory."""


def repeated(step: Step) -> Burst:
    def burst(count: int) -> None:
        for _ in range(count):
            step()

    return burst


def keep_heap() -> None:
    """Lets small tensors reuse their memory at each step, as in a process that has run for a while.

    glibc takes large blocks from the system and returns them when they are freed. It raises the size that counts as
    large to the largest such block freed so far, up to 32 MiB. Without this call, a MiB costs anything from 0 to 256
    page faults at each step, by chance.
    """
    bytearray(31 << 20)


def measure(bursts: dict[str, Burst], machine: Machine, pace: Pace, cold: bool = False) -> Rounds:
    """Times the competitors in turn, A B C A B C ...

    A turn starts with a rest and runs as many steps as fill its time. Short steps are preceded by one that is not
    timed, so that the optimizer's own code and tensors are in the caches again. If ``cold``, a turn is one step, after
    other memory has gone through the caches.
    """
    counts = {}
    for name, burst in bursts.items():
        burst(3)
        counts[name] = 1 if cold else max(1, int(pace.turn / machine.time(burst, 1)))
    rounds: Rounds = {name: [] for name in bursts}
    end = time.perf_counter() + pace.seconds
    while time.perf_counter() < end or len(rounds["fastopt"]) < pace.rounds:
        for name, burst in bursts.items():
            if cold:
                machine.evict()
            time.sleep(machine.rest)
            if counts[name] > 1:
                burst(1)
            rounds[name].append(machine.time(burst, counts[name]))
    return rounds
