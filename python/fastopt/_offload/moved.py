"""Gradients that are moved to the host in backward."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import _runtime
from .._processes import any_others
from .twin import Twin

_UNDER_WAY = 2**28  # bytes of gradients that the device keeps, at most, while copies of them are made
_MOVERS: weakref.WeakValueDictionary[int, Moved] = weakref.WeakValueDictionary()  # by the parameters' ids


class Moved:
    """Moves gradients to the host as soon as they are complete.

    Args:
        twins: by parameter; parameters that leave it keep their gradients.
    """

    def __init__(self, twins: dict[Tensor, Twin]) -> None:
        self._twins = twins
        self._lock = threading.Lock()  # autograd has a thread for each device
        self._arriving: deque[tuple[Twin, int]] = deque()  # whose gradients keep so many bytes of the device
        self._bytes = 0
        self._order: dict[Twin, None] = {}  # those whose gradients have come since the last step, the first first
        self._hooks: dict[Tensor, Any] = {}
        weakref.finalize(self, _remove, self._hooks)

    def watch(self, params: list[Tensor]) -> None:
        """Moves the gradients of parameters from now on. The parameters do not keep the host's memory alive."""
        own = weakref.ref(self)

        def gradient_is_complete(param: Tensor) -> None:
            moved = own()
            if moved is not None and param in moved._twins:
                moved._move(param)

        for param in params:
            other = _MOVERS.get(id(param))
            if other is not None and other is not self and param in other._twins:
                raise RuntimeError(
                    f"free_grads: another offloaded optimizer moves the gradients of a parameter (shape "
                    f"{tuple(param.shape)})"
                )
        for param in params:
            if param not in self._hooks:
                _MOVERS[id(param)] = self
                hook: Any = param.register_post_accumulate_grad_hook
                self._hooks[param] = hook(gradient_is_complete)

    def leave(self, param: Tensor) -> None:
        """Moves the gradients of a parameter no longer."""
        hook = self._hooks.pop(param, None)
        if hook is not None:
            hook.remove()
            _MOVERS.pop(id(param), None)

    @torch.no_grad()
    def _move(self, param: Tensor) -> None:
        if any_others() and dist.get_world_size() > 1:
            raise RuntimeError(
                "free_grads: there are other processes, and DistributedDataParallel averages gradients after they are "
                "complete; leave free_grads out, or use fully_shard with CPUOffloadPolicy"
            )
        if _runtime.capturing():
            raise RuntimeError("free_grads: a CUDA graph would not move gradients when it is replayed")
        with self._lock:
            twin = self._twins[param]
            if not twin.is_outdated and twin.move_grad():
                self._arriving.append((twin, twin.arriving_bytes))
                self._bytes += twin.arriving_bytes
                self._order.pop(twin, None)
                self._order[twin] = None
            while self._arriving and self._arriving[0][0].release():
                self._bytes -= self._arriving.popleft()[1]
            while len(self._arriving) > 1 and self._bytes > _UNDER_WAY:
                oldest, size = self._arriving.popleft()
                oldest.complete_grad()
                self._bytes -= size

    def order(self) -> list[Twin]:
        return [twin for twin in self._order if self._twins.get(twin.param) is twin]

    def clear(self) -> None:
        self._arriving.clear()
        self._bytes = 0
        self._order.clear()


def _remove(hooks: dict[Tensor, Any]) -> None:
    for hook in hooks.values():
        hook.remove()
