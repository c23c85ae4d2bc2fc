"""Paired timing: the peers take turns within one run, and only ratios of the same round are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Step = Callable[[], object]
Burst = Callable[[int], object]  # that many steps, one after the other


class Machine(Protocol):
    """What peers run on."""

    rest: float  # seconds before a turn

    def time(self, burst: Burst, count: int) -> float:
        """Seconds per step."""


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


@dataclass(frozen=True)
class Result:
    """Seconds per step of each peer, by round."""

    rounds: dict[str, list[float]]

    def seconds(self, peer: str) -> float:
        return statistics.median(self.rounds[peer])

    def ratio(self, peer: str) -> tuple[float, float, float]:
        """How many times ours is faster: median over the rounds, and the quartiles."""
        ours = self.rounds["fastopt"]
        ratios = [theirs / mine for theirs, mine in zip(self.rounds[peer], ours, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return middle, low, high


def measure(peers: dict[str, Burst], machine: Machine, seconds: float, min_rounds: int) -> Result:
    """Times the peers in turn, A B C A B C ..., for about ``seconds``.

    A turn is as many steps as fill 20 ms, after a rest and one step to settle in: what is measured is an optimizer
    that runs again and again, not one whose code and tensors a peer has just evicted.
    """
    counts = {}
    for name, burst in peers.items():
        burst(3)
        counts[name] = max(1, int(20e-3 / machine.time(burst, 1)))
    rounds: dict[str, list[float]] = {name: [] for name in peers}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds["fastopt"]) < min_rounds:
        for name, burst in peers.items():
            time.sleep(machine.rest)
            burst(1)
            rounds[name].append(machine.time(burst, counts[name]))
    return Result(rounds)
