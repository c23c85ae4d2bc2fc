"""What a case is: competitors that take the same step, each on tensors of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .measure import Burst, Step, repeated
from .stream import Stream

Tensors = list[torch.Tensor]
Maker = Callable[[Tensors], Step]  # prepares what a step needs and returns the step
Peers = dict[str, Maker]


@dataclass(frozen=True)
class Floor:
    """What bounds a case from below: something simpler over as much memory."""

    name: str  # shown behind the ratio
    burst: Callable[[Stream | None], Burst | None]  # none where it cannot be had


@dataclass(frozen=True)
class Case:
    """One step of ours, beside the other implementations of it."""

    name: str
    tensors: Callable[[], Tensors]  # fresh ones, on the default device
    ours: Maker
    rival: str  # what it is compared with
    peers: Peers  # how that can be run here; empty where it is not installed
    bytes: int  # that a step has to read and write
    floor: Floor | None = None
    quick: bool = True  # part of --quick

    def burst(self, make: Maker, device: torch.device) -> Burst:
        """A competitor on tensors of its own, after its first step."""
        with device:
            tensors = self.tensors()
        burst = repeated(make(tensors))
        burst(1)
        return burst

    def bursts(self, device: torch.device) -> tuple[dict[str, Burst], list[str]]:
        """Each competitor, ours first; and which cannot take this step."""
        found, without = {"fastopt": self.burst(self.ours, device)}, []
        for name, make in self.peers.items():
            try:
                found[name] = self.burst(make, device)
            except Exception as error:  # of whatever type another implementation refuses with
                without.append(f"{self.name}, without {name}: {(str(error).splitlines() or ['?'])[0]}")
        return found, without
