"""Copies between a device and the host: one interface, with streams of a device or by plain copies."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .. import _runtime


class Transfers(Protocol):
    """What moves tensors between one device and the host.

    Copies may go on while Python does. All methods can raise what the device reports.
    """

    def memory(self, nbytes: int) -> Tensor:
        """Returns so many bytes of the host's memory, from which and to which copies are fast."""

    def fetch(self, source: Tensor, target: Tensor) -> Any:
        """Begins a copy to the host, of what ``source`` is after the work that its device has been given so far.

        The source may be freed at once. Returns a ticket for :meth:`wait`.
        """

    def wait(self, ticket: Any) -> None:
        """Returns when a copy to the host is complete."""

    def is_complete(self, ticket: Any) -> bool:
        """Whether :meth:`wait` would return at once."""

    def send(self, source: Tensor, target: Tensor) -> None:
        """Begins a copy to the device, after the work that it has been given so far."""

    def join(self) -> None:
        """Makes the work that the device is given from now on wait for all copies to it."""


class PlainTransfers:
    """Copies that are complete when the call returns: between tensors of the host, or of devices without streams."""

    def memory(self, nbytes: int) -> Tensor:
        memory = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
        _runtime.kernels.expect_first_write(memory)
        return memory

    def fetch(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source)

    def wait(self, ticket: None) -> None:
        pass

    def is_complete(self, ticket: None) -> bool:
        return True

    def send(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source)

    def join(self) -> None:
        pass


class StreamTransfers:
    """Copies between pinned memory and a device, on a stream for each direction.

    Args:
        device: the device.
        streams: the module with its streams and events: ``torch.cuda`` for a CUDA device.
    """

    def __init__(self, device: torch.device, streams: Any) -> None:
        self._device, self._streams = device, streams
        self._to_host, self._to_device = streams.Stream(device), streams.Stream(device)

    def memory(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    def fetch(self, source: Tensor, target: Tensor) -> Any:
        with self._after_current_work(self._to_host):
            dense = source
            if not _lies_like(source, target):
                dense = torch.empty_like(target, device=self._device)
                self._copy(source, dense)
            self._copy(dense, target)
            self._keep(source, self._to_host)
            return self._to_host.record_event()

    def wait(self, ticket: Any) -> None:
        ticket.synchronize()

    def is_complete(self, ticket: Any) -> bool:
        done: bool = ticket.query()
        return done

    def send(self, source: Tensor, target: Tensor) -> None:
        with self._after_current_work(self._to_device):
            if _lies_like(target, source):
                self._copy(source, target)
            else:
                dense = torch.empty_like(source, device=self._device)
                self._copy(source, dense)
                self._copy(dense, target)
            self._keep(target, self._to_device)

    def join(self) -> None:
        self._streams.current_stream(self._device).wait_stream(self._to_device)

    def _after_current_work(self, stream: Any) -> Any:
        stream.wait_stream(self._streams.current_stream(self._device))
        return self._streams.stream(stream)

    def _copy(self, source: Tensor, target: Tensor) -> None:
        """Copies between device and host are of one layout: torch makes others in a temporary tensor on the host, and
        does not wait before it reads that."""
        target.copy_(source, non_blocking=True)

    def _keep(self, tensor: Tensor, stream: Any) -> None:
        """Lets the memory of a tensor that is freed be used again only after the stream's work."""
        tensor.record_stream(stream)


def transfers_for(device: torch.device) -> Transfers:
    return StreamTransfers(device, torch.cuda) if device.type == "cuda" else PlainTransfers()


def _lies_like(tensor: Tensor, dense: Tensor) -> bool:
    """Whether their bytes are equal: torch would mend a conjugate on the host before the copy is there."""
    same_bits = tensor.is_conj() == dense.is_conj() and tensor.is_neg() == dense.is_neg()
    return same_bits and tensor.stride() == dense.stride() and tensor.dtype == dense.dtype
