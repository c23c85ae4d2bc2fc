"""Paired timing: the peers take turns within one run, and only ratios of the same round are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


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


def _burst(step: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def measure(peers: dict[str, Callable[[], object]], seconds: float, min_rounds: int = 7) -> Result:
    """Times the peers in turn, A B C A B C ..., for about ``seconds``.

    A turn is as many steps as fill 20 ms, after one step to settle in: what is measured is an optimizer
    that runs again and again, not one whose code and tensors a peer has just evicted.
    """
    counts = {}
    for name, step in peers.items():
        for _ in range(3):
            step()
        counts[name] = max(1, int(20e-3 / _burst(step, 1)))
    rounds: dict[str, list[float]] = {name: [] for name in peers}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds["fastopt"]) < min_rounds:
        for name, step in peers.items():
            step()
            rounds[name].append(_burst(step, counts[name]))
    return Result(rounds)
