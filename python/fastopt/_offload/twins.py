"""All parameters of an optimizer on the host: their memory, their gradients, and the optimizer's view of them."""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..optim._declared import Declared
from ..optim.lookahead import Lookahead
from .memory import places_like
from .transfers import Transfers
from .twin import Twin


class Twins:
    """The parameters of an optimizer and what the host has of them.

    Args:
        optimizer: it keeps this object alive, not the other way round, so that both go at once.
        transfers_for: makes the transfers of a device.
        moves: whether gradients are moved in backward.
    """

    def __init__(self, optimizer: Declared, transfers_for: Callable[[torch.device], Transfers], moves: bool) -> None:
        self._of = weakref.ref(optimizer)
        self._transfers_for = transfers_for
        self._moves = moves
        self._twins: dict[Tensor, Twin] = {}
        self._params: dict[Tensor, Tensor] = {}  # by the twins' values
        self._transfers: dict[torch.device, Transfers] = {}
        self._arriving: deque[Twin] = deque()  # whose gradients keep memory of the device
        self._order: dict[Twin, None] = {}  # those whose gradients have been moved, the first first
        self.take_params()

    @property
    def optimizer(self) -> Declared:
        optimizer = self._of()
        assert optimizer is not None
        return optimizer

    def all(self) -> list[Twin]:
        return [self._twins[param] for group in self.optimizer.param_groups for param in group["params"]]

    def take_params(self) -> None:
        """Makes places for the parameters that have none."""
        new: dict[torch.device, list[Tensor]] = defaultdict(list)
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                if param not in self._twins:
                    new[param.device].append(param)
        for device, params in new.items():
            transfers = self._transfers.setdefault(device, self._transfers_for(device))
            values = places_like(params, transfers.memory)
            buffers = places_like(params, transfers.memory)
            for param, value, buffer in zip(params, values, buffers, strict=True):
                twin = Twin(param, value, buffer, transfers)
                self._twins[param], self._params[value] = twin, param
                if self._moves and param.requires_grad:
                    self._hook(param)

    def _hook(self, param: Tensor) -> None:
        """The parameter does not keep the host's memory alive."""
        own = weakref.ref(self)

        def gradient_is_complete(param: Tensor) -> None:
            twins = own()
            if twins is not None:
                twins._move(param)

        param.register_post_accumulate_grad_hook(gradient_is_complete)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _move(self, param: Tensor) -> None:
        twin = self._twins[param]
        if twin.move_grad():
            self._arriving.append(twin)
            self._order.pop(twin, None)
            self._order[twin] = None
        while self._arriving and self._arriving[0].release():
            self._arriving.popleft()

    def find_grads(self) -> list[Twin]:
        """Returns the parameters that have a gradient, in the order in which it comes to the host."""
        return [twin for twin in dict.fromkeys((*self._order, *self.all())) if twin.find_grad(self._moves)]

    def fetch_values(self, twins: list[Twin]) -> None:
        for twin in twins:
            if self._moves:
                twin.refetch_value()
            else:
                twin.fetch_value()

    def drop_grads(self) -> None:
        """Forgets the gradients that have come."""
        self._arriving.clear()
        self._order.clear()
        for twin in self._twins.values():
            twin.drop_grad()

    def join(self) -> None:
        """Makes later work of the devices wait for what has been sent to them."""
        for transfers in self._transfers.values():
            transfers.join()

    def bytes(self) -> dict[str, int]:
        """Returns the memory of values and gradients."""
        twins = self._twins.values()
        return {
            "parameters": sum(twin.value.nbytes for twin in twins),
            "gradients": sum(twin.grad_bytes for twin in twins),
        }

    @contextlib.contextmanager
    def at_host(self) -> Iterator[None]:
        """A context in which the optimizer's parameters are the values on the host."""
        self.take_params()
        layers = layers_of(self.optimizer)

        def there(param: Tensor) -> Tensor:
            return self._twins[param].value if param in self._twins else param

        def back(value: Tensor) -> Tensor:
            return self._params.get(value, value)

        _exchange(layers, there)
        try:
            yield
        finally:
            _exchange(layers, back)

    def give_grads(self, twins: list[Twin]) -> None:
        """Gives the values on the host their gradients, which may still be on the way."""
        for twin in twins:
            grad = twin.grad()
            if grad.dtype == twin.value.dtype:
                twin.value.grad = grad
            else:
                for layer in layers_of(self.optimizer):
                    layer._own_grads[twin.value] = grad

    def take_grads(self, twins: list[Twin]) -> None:
        for twin in twins:
            twin.value.grad = None
        for layer in layers_of(self.optimizer):
            layer._own_grads.clear()


def layers_of(optimizer: Any) -> list[Any]:
    """Returns the optimizer, and the one that it goes around."""
    return [optimizer, optimizer.optimizer] if isinstance(optimizer, Lookahead) else [optimizer]


def _exchange(layers: list[Any], other: Callable[[Tensor], Tensor]) -> None:
    """Exchanges the parameters in groups and states. States that somebody has moved to a device come back."""
    for group in layers[0].param_groups:
        group["params"] = [other(param) for param in group["params"]]
    for layer in layers:
        state: defaultdict[Any, Any] = defaultdict(dict)
        for key, entries in layer.state.items():
            for name, value in entries.items():
                if isinstance(value, Tensor) and value.device.type != "cpu":
                    entries[name] = value.cpu()
            state[other(key)] = entries
        layer.state = state
