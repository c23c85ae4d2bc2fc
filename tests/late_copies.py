"""A device whose copies happen late, in another order, or not at all."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastopt._offload.transfers import StreamTransfers


class Stream:
    """Work that is done only when somebody waits for it. Streams are done in random order."""

    def __init__(self, device: LateDevice) -> None:
        self._device = device
        self._work: list[Callable[[], None]] = []
        self._done = 0
        device.streams.append(self)

    def add(self, work: Callable[[], None]) -> None:
        self._work.append(work)

    def do(self, end: int) -> None:
        while self._done < end:
            work = self._work[self._done]
            self._done += 1
            work()

    def wait_stream(self, other: Stream) -> None:
        end = len(other._work)
        self.add(lambda: other.do(end))
        if self is self._device.current:
            self.do(len(self._work))  # what the test does next is the device's work

    def record_event(self) -> Event:
        return Event(self, len(self._work))


class Event:
    def __init__(self, stream: Stream, end: int) -> None:
        self._stream, self._end = stream, end

    def synchronize(self) -> None:
        others = [*self._stream._device.streams]
        self._stream._device.random.shuffle(others)
        for other in others[:1]:
            other.do(self._stream._device.random.randint(other._done, len(other._work)))
        self._stream.do(self._end)

    def query(self) -> bool:
        return self._stream._done >= self._end


class LateDevice:
    """The part of ``torch.cuda`` that transfers use."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.streams: list[Stream] = []
        self.current = Stream(self)
        self._chosen = self.current

    def Stream(self, device: torch.device) -> Stream:
        return Stream(self)

    def current_stream(self, device: torch.device) -> Stream:
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._chosen = self._chosen, stream
        yield
        self._chosen = before

    def add(self, work: Callable[[], None]) -> None:
        self._chosen.add(work)


class LateTransfers(StreamTransfers):
    """Copies on such a device.

    Args:
        device: of the tensors.
        seed: of the order.
        fails: whether the next copy fails; it gets "fetch", "wait" or "send".
    """

    def __init__(self, device: torch.device, seed: int = 0, fails: Callable[[str], bool] = lambda what: False) -> None:
        self.late = LateDevice(seed)
        self.fails = fails
        super().__init__(device, self.late)

    def memory(self, nbytes: int) -> Tensor:
        return torch.full((nbytes,), 255, dtype=torch.uint8)

    def _copy(self, source: Tensor, target: Tensor) -> None:
        def work() -> None:
            with torch.no_grad():
                target.copy_(source)

        self.late.add(work)

    def _keep(self, tensor: Tensor, stream: Any) -> None:
        pass  # the work itself holds the tensor

    def fetch(self, source: Tensor, target: Tensor) -> Any:
        self._fail("fetch")
        return super().fetch(source, target)

    def wait(self, ticket: Any) -> None:
        self._fail("wait")
        super().wait(ticket)

    def send(self, source: Tensor, target: Tensor) -> None:
        self._fail("send")
        super().send(source, target)

    def _fail(self, what: str) -> None:
        if self.fails(what):
            raise RuntimeError(f"{what} failed on purpose")
