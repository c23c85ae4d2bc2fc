"""Paired timing: the competitors take turns within one run, and only ratios of the same round are compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Step = Callable[[], object]
Burst = Callable[[int], object]  # that many steps, one after the other; may return the seconds they took
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
        """Has caches hold something else."""


def repeated(step: Step) -> Burst:
    def burst(count: int) -> None:
        for _ in range(count):
            step()

    return burst


def keep_heap() -> None:
    """Has small tensors use their memory again at each step, as in a process that has run for a while.

    glibc raises what it takes from the system and gives back at once to the largest such block that was freed, and
    never above 32 MiB. Without this, a MiB costs anything from 0 to 256 page faults at each step, as chance has it.
    """
    bytearray(31 << 20)


def measure(bursts: dict[str, Burst], machine: Machine, pace: Pace, cold: bool = False) -> Rounds:
    """Times the competitors in turn, A B C A B C ...

    A turn is as many steps as fill its time, after a rest and, where they are short, one to settle in: what is measured
    is an optimizer that runs again and again, not one whose code and tensors another has just evicted. Where it is to
    be ``cold``, a turn is one step, after other memory has gone through the caches.
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
