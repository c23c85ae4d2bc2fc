"""The host's side of an optimizer whose parameters are on a device: memory, gradients, and the step."""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._processes import thread_budget
from ..optim._declared import Declared
from ..optim._norms import total_norm
from ..optim.lookahead import Lookahead
from .memory import places_like
from .transfers import Transfers
from .twin import Twin

_CHUNK = 2**25  # bytes of parameters that are updated at a time, while others travel
_OPTIONS = ("master", "ema", "copies", "rounding", "state_dtype")  # those for which a step makes states of values


class Host:
    """Steps an optimizer on the host.

    Args:
        optimizer: whose step it is. It keeps the host alive, not the other way round, so both go at once.
        transfers_for: makes the transfers of a device.
        threads: of a step; None for the process's share of the cores.
        moves: whether gradients are moved in backward.
        previous: whether to clip by the norm of the step before.
    """

    def __init__(
        self,
        optimizer: Declared,
        transfers_for: Callable[[torch.device], Transfers],
        threads: int | None,
        moves: bool,
        previous: bool,
    ) -> None:
        self._of = weakref.ref(optimizer)
        self._transfers_for, self._threads = transfers_for, threads
        self._moves, self.is_previous = moves, previous
        self.previous_norm: Any = 0.0
        self.clips_by_previous = False  # whether the step under way does
        self._twins: dict[Tensor, Twin] = {}
        self._params: dict[Tensor, Tensor] = {}  # by the twins' values
        self._transfers: dict[torch.device, Transfers] = {}
        self._arriving: deque[Twin] = deque()  # whose gradients keep memory of the device
        self._order: dict[Twin, None] = {}  # those whose gradients have been moved, the first first
        self._early: list[Twin] = []  # those of the step under way whose values and gradients are still coming
        self._settled: dict[Tensor, tuple[Any, ...]] = {}  # what decided whether a step makes states
        self._errors: list[BaseException] = []  # of sending
        self._is_made = False  # whether the last step is complete but for sending
        self.take_params()

    @property
    def _optimizer(self) -> Declared:
        optimizer = self._of()
        assert optimizer is not None
        return optimizer

    @property
    def _layers(self) -> list[Declared]:
        return layers_of(self._optimizer)

    def _all_params(self) -> list[Tensor]:
        return [param for group in self._optimizer.param_groups for param in group["params"]]

    def take_params(self) -> None:
        """Makes places for the parameters that have none."""
        new: dict[torch.device, list[Tensor]] = defaultdict(list)
        for param in self._all_params():
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
        """The parameter does not keep the optimizer's memory alive."""
        own = weakref.ref(self)

        def gradient_is_complete(param: Tensor) -> None:
            host = own()
            if host is not None:
                host._move(param)

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

    def drop_grads(self) -> None:
        """Forgets the gradients that have been moved."""
        self._arriving.clear()
        self._order.clear()
        for twin in self._twins.values():
            twin.drop_grad()

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
        for layer in self._layers:
            layer.state = _rekeyed(
                layer.state, lambda param: self._twins[param].value if param in self._twins else param
            )
        self._exchange(lambda param: self._twins[param].value)
        try:
            yield
        finally:
            self._exchange(lambda value: self._params.get(value, value))
            for layer in self._layers:
                layer.state = _rekeyed(layer.state, lambda value: self._params.get(value, value))

    def _exchange(self, other: Callable[[Tensor], Tensor]) -> None:
        for group in self._optimizer.param_groups:
            group["params"] = [other(param) for param in group["params"]]

    @torch.no_grad()
    def step(self, update: Callable[[], None], waits: bool) -> None:
        """Makes a step, or ends one that has failed.

        Args:
            update: the optimizer's own step.
            waits: whether it needs all gradients at its begin.
        """
        self.take_params()
        self._send([twin for twin in self._twins.values() if twin.is_unsent])
        self._join()
        self._raise_errors()
        found = self._find_grads()
        waiting = [twin for twin in found if not twin.is_stepped]
        if self._is_made and not waiting:
            self._end(found)
            return
        if self._is_made:  # this is the next step, with some of the last one's gradients
            waiting = found
            self._is_made = False
        late = self._fetch(waiting, waits)
        versions = [twin.value._version for twin in late]
        with self.at_host(), _threads(self._threads or thread_budget()):
            try:
                self._give_grads(waiting)
                update()
            finally:
                self._take_grads(waiting)
                self._join()
        for twin in waiting:
            twin.is_stepped = True
        used = set(map(id, waiting))
        after = zip(late, versions, strict=True)
        self._send([twin for twin, version in after if id(twin) in used or twin.value._version != version])
        self._is_made = True
        self._end(found)

    def _find_grads(self) -> list[Twin]:
        """Returns the parameters that have a gradient, in the order in which it comes to the host."""
        params = [self._twins[param] for param in self._all_params()]
        return [twin for twin in dict.fromkeys((*self._order, *params)) if twin.find_grad(self._moves)]

    def _fetch(self, waiting: list[Twin], waits: bool) -> list[Twin]:
        """Begins to fetch values. Returns those that the step may use at once; these are here."""
        used = [*self._twins.values()] if waits else waiting
        for twin in used:
            if self._moves:
                twin.refetch_value()
            else:
                twin.fetch_value()
        now = self._settlements()
        self._early = []
        late: list[Twin] = []
        for twin in used:
            settled = not (waits or twin.is_odd) and now.get(twin.param) == self._settled.get(twin.param, ())
            (self._early if settled else late).append(twin)
        for twin in late:
            twin.make_ready()
        return late

    def _settlements(self) -> dict[Tensor, tuple[Any, ...]]:
        """What decides whether a step makes a state of a parameter's value; nothing of parameters without states."""
        state = self._optimizer.state
        return {
            param: (id(entries), len(entries), *map(group.get, _OPTIONS))
            for group in self._optimizer.param_groups
            for param in group["params"]
            if (entries := state.get(param))
        }

    def _give_grads(self, twins: list[Twin]) -> None:
        for twin in twins:
            grad = twin.grad()
            if grad.dtype == twin.value.dtype:
                twin.value.grad = grad
            else:
                for layer in self._layers:
                    layer._own_grads[twin.value] = grad

    def _take_grads(self, twins: list[Twin]) -> None:
        for twin in twins:
            twin.value.grad = None
        for layer in self._layers:
            layer._own_grads.clear()

    def chunks(self) -> Iterator[list[Tensor]]:
        """Waits for some parameters and their gradients; when these are updated, sends them, and waits for the next."""
        for chunk in _chunks(self._early):
            for twin in chunk:
                twin.make_ready()
            yield [twin.value for twin in chunk]
            for twin in chunk:
                twin.is_stepped = True
            self._send(chunk)

    def _send(self, twins: Iterable[Twin]) -> None:
        for twin in twins:
            try:
                twin.send()
            except Exception as error:  # the others still go
                self._errors.append(error)

    def _join(self) -> None:
        for transfers in self._transfers.values():
            transfers.join()

    def _end(self, found: list[Twin]) -> None:
        self._join()
        self._raise_errors()
        if self.clips_by_previous:
            self.previous_norm = self._optimizer._grad_norm = self._norm(found)
            self.clips_by_previous = False
        self._settled = self._settlements()
        self._is_made = False
        self.drop_grads()

    def _raise_errors(self) -> None:
        if not self._errors:
            return
        first, self._errors = self._errors[0], []
        count = sum(twin.is_unsent for twin in self._twins.values())
        raise RuntimeError(
            f"offload: the step is made, but {count} parameters could not be sent to their device: call step() again"
        ) from first

    def _norm(self, twins: list[Twin]) -> Any:
        by_param = {id(twin.param): twin for twin in twins}
        grads = [by_param[id(param)].grad() for param in self._optimizer._clipped() if id(param) in by_param]
        return total_norm(grads, 2.0)


def layers_of(optimizer: Any) -> list[Any]:
    """Returns the optimizer, and the one that it goes around."""
    return [optimizer, optimizer.optimizer] if isinstance(optimizer, Lookahead) else [optimizer]


def _rekeyed(state: dict[Any, Any], other: Callable[[Any], Any]) -> defaultdict[Any, Any]:
    """Returns an optimizer's states by other keys. Those that somebody has moved to a device come back."""
    result: defaultdict[Any, Any] = defaultdict(dict)
    for key, entries in state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.device.type != "cpu":
                entries[name] = value.cpu()
        result[other(key)] = entries
    return result


def _chunks(twins: list[Twin]) -> Iterator[list[Twin]]:
    chunk: list[Twin] = []
    size = 0
    for twin in twins:
        chunk.append(twin)
        size += twin.value.numel() * twin.value.element_size()
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Lets torch, and with it the kernels, use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
