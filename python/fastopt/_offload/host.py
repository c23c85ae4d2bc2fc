"""The step of an optimizer whose parameters are on a device: what comes when, what is updated when, what goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._processes import thread_budget, using_threads
from ..optim._norms import total_norm
from .twin import Twin
from .twins import Twins

_CHUNK = 2**25  # bytes of parameters that are updated at a time, while others travel
_OPTIONS = ("master", "ema")  # those for which a step makes states of values


class Host:
    """Steps an optimizer on the host.

    Args:
        twins: the optimizer's parameters.
        threads: of a step; None for the process's share of the cores.
        is_previous: whether to clip by the norm of the step before.
    """

    def __init__(self, twins: Twins, threads: int | None, is_previous: bool) -> None:
        self.twins, self._threads, self.is_previous = twins, threads, is_previous
        self.previous_norm: Any = 0.0
        self._norm_of_step: Any = None  # for the case that the step is interrupted
        self._is_repeated = False
        self._clips_by_previous = False  # whether the step under way has done so
        self._course: list[Twin] = []  # what the step under way updates in chunks
        self._settled: dict[Tensor, tuple[Any, ...]] = {}  # what decided whether a step makes states
        self._errors: list[BaseException] = []  # of sending
        self._is_made = False  # whether the last step is complete but for sending

    @torch.no_grad()
    def step(self, update: Callable[[], None], *, waits: bool, is_separable: bool) -> None:
        """Makes a step, or ends one that has failed.

        Args:
            update: the optimizer's own step.
            waits: whether it uses all gradients before it updates anything.
            is_separable: whether it updates each parameter by itself, and once.
        """
        twins = self.twins
        twins.take_params()
        self._send([twin for twin in twins.all() if twin.is_unsent])
        twins.join()
        self._raise_errors()
        found = twins.find_grads()
        waiting = [twin for twin in found if not twin.is_stepped]
        if self._is_made and not waiting:
            self._end(found)
            return
        if self._is_made:  # this is the next step, with some of the last one's gradients
            waiting = found
            self._is_made = False
        self._is_repeated = len(waiting) < len(found)
        used = waiting if is_separable else twins.all()
        twins.fetch_values(used)
        settlements = self._settlements()
        for twin in used:
            if waits or twin.is_odd or settlements.get(twin.param) != self._settled.get(twin.param, ()):
                twin.make_ready()
        self._course = [twin for twin in waiting if is_separable and not twin.is_odd]
        early = set(self._course)
        late = [twin for twin in used if twin not in early]
        versions = [twin.value._version for twin in late]
        with twins.at_host(), using_threads(self._threads or thread_budget()):
            try:
                twins.give_grads(waiting)
                update()
            except BaseException:
                if not twins.moves:  # the gradients are where they were, and may change before the step is repeated
                    for twin in waiting:
                        if not twin.is_stepped:
                            twin.drop_grad()
                raise
            finally:
                twins.take_grads(waiting)
                twins.join()
        # Without a gradient, the version tells whether the step has written to a parameter. It does not tell of rows.
        has_grad = set(waiting)
        after = zip(late, versions, strict=True)
        updated = [twin for twin, before in after if twin in has_grad or twin.value._version != before]
        for twin in updated:
            twin.mark_updated()
        self._is_made = True
        self._send(updated)
        self._end(found)

    def _settlements(self) -> dict[Tensor, tuple[Any, ...]]:
        """What decides whether a step makes a state of a parameter's value; nothing of parameters without states."""
        optimizer = self.twins.optimizer
        return {
            param: (id(entries), len(entries), *map(group.get, _OPTIONS))
            for group in optimizer.param_groups
            for param in group["params"]
            if (entries := optimizer.state.get(param))
        }

    def norm(self, take: Callable[[], Any]) -> Any:
        """Returns the norm to clip by: that of the gradients, or of the step before. ``take`` takes the former."""
        if self.is_previous:
            self._clips_by_previous = True
            return self.previous_norm
        if not (self._is_repeated and self._norm_of_step is not None):
            self._norm_of_step = take()
        return self._norm_of_step

    def chunks(self) -> Iterator[list[Tensor]]:
        """Waits for some parameters and their gradients; when these are updated, sends them, and waits for the next."""
        for chunk in _chunks(self._course):
            for twin in chunk:
                twin.make_ready()
            yield [twin.value for twin in chunk]
            for twin in chunk:
                twin.mark_updated()
            self._send(chunk)

    def _send(self, twins: Iterable[Twin]) -> None:
        for twin in twins:
            try:
                twin.send()
            except Exception as error:  # the others still go
                self._errors.append(error)

    def _end(self, found: list[Twin]) -> None:
        self.twins.join()
        self._raise_errors()
        if self._clips_by_previous:
            self.previous_norm = self.twins.optimizer._grad_norm = self._norm_of(found)
            self._clips_by_previous = False
        settlements = self._settlements()
        self._settled = {param: settled for param, settled in self._settled.items() if param in settlements}
        self._settled |= {twin.param: settlements[twin.param] for twin in found if twin.param in settlements}
        self._is_made = False
        self._norm_of_step = None
        self.twins.drop_grads()

    def _raise_errors(self) -> None:
        if not self._errors:
            return
        first, self._errors = self._errors[0], []
        count = sum(twin.is_unsent for twin in self.twins.all())
        raise RuntimeError(
            f"offload: the step is made, but {count} parameters could not be sent to their device: call step() again"
        ) from first

    def _norm_of(self, found: list[Twin]) -> Any:
        by_param = {twin.param: twin for twin in found}
        clipped = self.twins.optimizer._clipped()
        return total_norm([by_param[param].grad() for param in clipped if param in by_param], 2.0)


def _chunks(twins: list[Twin]) -> Iterator[list[Twin]]:
    chunk: list[Twin] = []
    size = 0
    for twin in twins:
        chunk.append(twin)
        size += twin.value.nbytes
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
