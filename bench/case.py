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
    tensors: Callable[[], Tensors]  # fresh ones
    ours: Maker
    rival: str  # what it is compared with
    peers: Peers  # how that can be run here; empty where it is not installed
    bytes: int  # that a step has to read and write
    floor: Floor | None = None
    quick: bool = True  # part of --quick

    def bursts(self, stream: Stream | None) -> dict[str, Burst]:
        """Each competitor, ours first, the floor last."""
        makers = {"fastopt": self.ours, **self.peers}
        found = {name: repeated(make(self.tensors())) for name, make in makers.items()}
        if self.floor and (burst := self.floor.burst(stream)):
            found[self.floor.name] = burst
        return found
