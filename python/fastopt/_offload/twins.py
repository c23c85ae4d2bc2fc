"""All parameters of an optimizer on the host: their memory, their gradients, and the optimizer's view of them."""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..optim._declared import Declared
from ..optim._dense import refuse_overlap
from ..optim._layout import overlaps_itself, shared_pair
from ..optim.lookahead import Lookahead
from .memory import places_like
from .moved import Moved
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
        self.moves = moves
        self._twins: dict[Tensor, Twin] = {}
        self._params: dict[Tensor, Tensor] = {}  # by the twins' values
        self._transfers: dict[torch.device, Transfers] = {}
        self._moved = Moved(self._twins) if moves else None
        self.take_params()

    @property
    def optimizer(self) -> Declared:
        optimizer = self._of()
        assert optimizer is not None
        return optimizer

    def all(self) -> list[Twin]:
        return [self._twins[param] for param in self._all_params() if param in self._twins]

    def _all_params(self) -> list[Tensor]:
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def _needs_twin(self, param: Tensor) -> bool:
        """A frozen parameter needs none, but for Lookahead, which moves all parameters."""
        return param.requires_grad or param.grad is not None or isinstance(self.optimizer, Lookahead)

    def take_params(self) -> None:
        """Makes places for new parameters and for those that have become other tensors; leaves those that are gone."""
        params = self._all_params()
        gone = self._twins.keys() - set(params)
        outdated = {}
        for param, twin in [*self._twins.items()]:
            if param in gone or twin.is_outdated:
                del self._twins[param], self._params[twin.value]
                outdated[param] = twin
        if self._moved is not None:
            for param in gone:
                self._moved.leave(param)
        new: dict[torch.device, list[Tensor]] = defaultdict(list)
        for param in params:
            if param not in self._twins and self._needs_twin(param):
                new[param.device].append(param)
        if new:
            self._make(new, params)
        for param in outdated.keys() - gone:
            self._twins[param].inherit(outdated[param])

    def _make(self, new: dict[torch.device, list[Tensor]], params: list[Tensor]) -> None:
        own = self._of  # names do not keep the optimizer alive

        def name_of(param: Tensor) -> str:
            optimizer = own()
            return "a parameter" if optimizer is None else optimizer._name(param)

        for param in params:
            if overlaps_itself(param):
                refuse_overlap(param, name_of(param))
        pair = shared_pair(params)
        if pair is not None:
            raise RuntimeError(f"{name_of(pair[0])} shares memory with {name_of(pair[1])}")
        for device, of_device in new.items():
            if device not in self._transfers:
                self._transfers[device] = self._transfers_for(device)
            transfers = self._transfers[device]
            values, buffers = (places_like(of_device, transfers.memory) for _ in range(2))
            for param, value, buffer in zip(of_device, values, buffers, strict=True):
                self._twins[param] = Twin(param, value, buffer, transfers, name_of)
                self._params[value] = param
        if self._moved is not None:
            self._moved.watch([param for of_device in new.values() for param in of_device if param.requires_grad])

    def find_grads(self) -> list[Twin]:
        """Returns the parameters that have a gradient, in the order in which it comes to the host."""
        first = [] if self._moved is None else self._moved.order()
        return [twin for twin in dict.fromkeys((*first, *self.all())) if twin.find_grad(self.moves)]

    def fetch_values(self, twins: list[Twin]) -> None:
        for twin in twins:
            if self.moves:
                twin.refetch_value()
            else:
                twin.fetch_value()

    def drop_grads(self) -> None:
        """Forgets the gradients that have come."""
        if self._moved is not None:
            self._moved.clear()
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
        """A context in which the optimizer's parameters are the values on the host. Call take_params() before."""
        layers = layers_of(self.optimizer)
        kept = [layer.state for layer in layers]

        def there(param: Tensor) -> Tensor:
            return self._twins[param].value if param in self._twins else param

        def back(value: Tensor) -> Tensor:
            return self._params.get(value, value)

        try:  # an interrupt may come in the middle of an exchange, too
            _exchange_params(layers[0], there)
            for layer in layers:
                layer.state = _rekeyed(layer.state, there)
            yield
        finally:
            _exchange_params(layers[0], back)
            for layer, state in zip(layers, kept, strict=True):
                _replace(state, _rekeyed(layer.state, back))
                layer.state = state

    def give_grads(self, twins: list[Twin]) -> None:
        """Gives the values on the host their gradients, which may still be on the way."""
        for twin in twins:
            grad = twin.grad()
            if grad.dtype == twin.value.dtype:
                twin.value.grad = grad
            else:
                layers_of(self.optimizer)[-1]._own_grads[twin.value] = grad

    def take_grads(self, twins: list[Twin]) -> None:
        for twin in twins:
            twin.value.grad = None
        layers_of(self.optimizer)[-1]._own_grads.clear()


def layers_of(optimizer: Any) -> list[Any]:
    """Returns the optimizer, and the one that it goes around."""
    return [optimizer, optimizer.optimizer] if isinstance(optimizer, Lookahead) else [optimizer]


def _exchange_params(optimizer: Any, other: Callable[[Tensor], Tensor]) -> None:
    for group in optimizer.param_groups:
        group["params"][:] = [other(param) for param in group["params"]]


def _rekeyed(state: dict[Any, Any], other: Callable[[Any], Any]) -> defaultdict[Any, Any]:
    """Returns states by other parameters. Those that somebody has moved to a device come back."""
    result: defaultdict[Any, Any] = defaultdict(dict)
    for key, entries in state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.device.type != "cpu":
                entries[name] = value.cpu()
        result[other(key)] = entries
    return result


def _replace(state: dict[Any, Any], new: dict[Any, Any]) -> None:
    """Gives a dict that users may have kept new entries."""
    state.update(new)
    for key in [key for key in state if key not in new]:
        del state[key]
