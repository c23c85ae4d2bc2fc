"""One parameter on a device, and what the host has of it: its value, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _runtime
from ..accumulate_grads import accumulate_grads_
from ..optim._update import HALF
from .transfers import Transfers


class _Label(NamedTuple):
    """What errors call a tensor; it takes a search, so only errors ask."""

    what: str
    param: Tensor
    name_of: Callable[[Tensor], str]

    def __str__(self) -> str:
        return f"{self.what}{self.name_of(self.param)}"


class _Arrival:
    """A tensor that comes to the host. The source is kept until the copy is complete, so that it can be repeated."""

    def __init__(self, transfers: Transfers, target: Tensor, label: _Label) -> None:
        self._transfers, self.target, self.label = transfers, target, label
        self._source: Tensor | None = None
        self._ticket: Any = None
        self.is_under_way = False

    def begin(self, source: Tensor) -> None:
        _runtime.refuse_freed(source, self.label)
        self.is_under_way = False
        self._ticket = self._transfers.fetch(source, self.target)
        self._source, self.is_under_way = source, True

    def complete(self) -> None:
        """Waits for the copy. Where that failed before, it is made again."""
        if self._source is None:
            return
        if not self.is_under_way:
            self.begin(self._source)
        try:
            self._transfers.wait(self._ticket)
        except BaseException:
            self.is_under_way = False
            raise
        self.forget()

    def release(self) -> bool:
        """Releases the source if the copy is complete. Returns whether it is."""
        if self.is_under_way and self._transfers.is_complete(self._ticket):
            self.forget()
        return self._source is None

    def forget(self) -> None:
        self._source = self._ticket = None
        self.is_under_way = False


class Twin:
    """A parameter on a device, and what the host has of it.

    Args:
        param: the parameter.
        value: memory on the host that the optimizer steps in its place.
        buffer: memory for its gradient.
        transfers: moves tensors between the two.
        name_of: what errors call a parameter.
    """

    def __init__(
        self, param: Tensor, value: Tensor, buffer: Tensor, transfers: Transfers, name_of: Callable[[Tensor], str]
    ) -> None:
        self.param, self.value = param, value
        self._transfers = transfers
        self._kind = _kind(param)
        self._value = _Arrival(transfers, value, _Label("", param, name_of))
        self._grad = _Arrival(transfers, buffer, _Label("the gradient of ", param, name_of))
        self._version: tuple[int, int] | None = None  # of the parameter that was fetched or sent last
        self._seen: tuple[Tensor, int] | None = None  # the gradient that the step goes by, and its version
        self._other: Tensor | None = None  # a gradient that does not fit in the buffer
        self._is_pending = False  # whether the buffer has a gradient that is in no sum
        self._sum: Tensor | None = None  # memory for sums over backward passes
        self._adds = False  # whether the sum is in use
        self.is_stepped = False  # whether the optimizer has used the gradient
        self.is_unsent = False  # whether the host has a newer value than the device

    @property
    def is_outdated(self) -> bool:
        """Whether the parameter has become another tensor, as ``model.half()`` and ``model.to()`` make it."""
        return _kind(self.param) != self._kind

    def inherit(self, older: Twin) -> None:
        """Takes over the gradient that has been moved for the tensor that the parameter was before."""
        if older._is_pending or older._adds:
            older.make_ready()
            self._add(older.grad().to(self.value.dtype))

    @property
    def arriving_bytes(self) -> int:
        """Of the device's memory, which a gradient takes until it is here."""
        return self._grad.target.nbytes if self._grad.is_under_way else 0

    def move_grad(self) -> bool:
        """Begins to move a complete gradient, which leaves ``param.grad``. Returns False for a sparse one."""
        grad = self.param.grad
        assert grad is not None
        if grad.layout != torch.strided:
            return False
        self._join_sum()  # that of an earlier backward pass
        if _fits(grad, self._grad.target):
            self._grad.begin(grad.detach())
            self._is_pending = True
        else:
            self._add(grad.detach().cpu())
        self.is_stepped = False
        self.param.grad = None
        self.refetch_value()
        return True

    def find_grad(self, moves: bool) -> bool:
        """Begins to fetch the gradient that a step finds, unless it comes already. Returns whether there is one."""
        grad = self.param.grad
        if grad is not None and not (moves and self.move_grad()):
            if moves and (self._adds or self._is_pending):
                raise RuntimeError(
                    f"free_grads: {self._value.label} has a sparse gradient after a dense one, and no zero_grad()"
                )
            self._find(grad)
        elif not moves:
            self.drop_grad()
        return grad is not None or self._is_pending or self._adds

    def _find(self, grad: Tensor) -> None:
        if self._seen is not None and self._seen[0] is grad and self._seen[1] == grad._version:
            return
        self.drop_grad()
        if _fits(grad, self._grad.target):
            self._grad.begin(grad.detach())
            self._is_pending = True
        else:
            if grad.layout == torch.strided:
                _runtime.refuse_freed(grad, self._grad.label)
            self._other = grad.detach().cpu()
        self._seen = grad, grad._version

    @property
    def is_odd(self) -> bool:
        """Whether the step may read or write the gradient or the value outside of the kernels' pass."""
        return self._other is not None or not self.value.is_contiguous()

    @property
    def grad_bytes(self) -> int:
        return self._grad.target.nbytes + (0 if self._sum is None else self._sum.nbytes)

    def grad(self) -> Tensor:
        """Returns where the gradient is, or will be."""
        if self._adds:
            assert self._sum is not None
            return self._sum
        return self._grad.target if self._other is None else self._other

    def _join_sum(self) -> None:
        """Adds a gradient that has come to the sum."""
        if not self._is_pending:
            return
        self._grad.complete()
        self._add(self._grad.target)
        self._is_pending = False

    def _add(self, new: Tensor) -> None:
        if self._adds:
            assert self._sum is not None
            accumulate_grads_(self._sum, new)
            return
        wanted = torch.float32 if new.dtype in HALF else new.dtype
        if self._sum is None or self._sum.dtype != wanted:
            self._sum = torch.empty_like(self.value, dtype=wanted)
        self._sum.copy_(new)
        self._adds = True

    def complete_grad(self) -> None:
        self._grad.complete()

    def release(self) -> bool:
        return self._grad.release()

    def drop_grad(self) -> None:
        self._grad.forget()
        self._value.forget()
        self._seen = self._other = None
        self._is_pending = self._adds = self.is_stepped = False

    def fetch_value(self) -> None:
        """Begins to fetch the parameter, which somebody may have changed since the last step."""
        now = self.param.data_ptr(), self.param._version
        if self.is_unsent and now == self._version:
            return
        self.is_unsent = False
        self._value.begin(self.param.detach())
        self._version = now

    def refetch_value(self) -> None:
        """The same, unless that has happened and the parameter is as it was."""
        if not self._value.is_under_way or (self.param.data_ptr(), self.param._version) != self._version:
            self.fetch_value()

    def make_ready(self) -> None:
        """Waits for value and gradient."""
        self._value.complete()
        if self._adds:
            self._join_sum()
        else:
            self._grad.complete()

    def mark_updated(self) -> None:
        """Call when the step has updated the value. From now on it has to be sent."""
        self.is_stepped = self.is_unsent = True
        self._version = self.param.data_ptr(), self.param._version

    def send(self) -> None:
        _runtime.refuse_freed(self.param, self._value.label)
        self._transfers.send(self.value, self.param.detach())
        self._version = self.param.data_ptr(), self.param._version
        self.is_unsent = False


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.dtype, tensor.shape, tensor.stride()


def _fits(grad: Tensor, buffer: Tensor) -> bool:
    return grad.layout == torch.strided and grad.dtype == buffer.dtype and grad.shape == buffer.shape
