"""The second half of Muon's step: the directions that the first half has left are made orthogonal, and applied."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._chosen import Chosen, Some, chosen_groups, own_grads, with_grad
from ._declared import Declared
from ._monitored import monitor_of
from ._newton_schulz import in_batches, newton_schulz, product_type
from ._program import Scalars, number
from ._sharded import replicated, sharding_of
from ._slow_path import SlowPath
from ._step import check_overlap, write
from ._storage import is_used, storage_of, with_average
from ._update import IDENTITY_PROLOGUE, Group, Instead, Storage, Subject, Update

DIRECTION = "direction"  # among the states of a parameter, but only in a step
_APPLY = Update("sgd", (), counts=False)


class _Matrix(NamedTuple):
    """A parameter that the step orthogonalizes."""

    param: Tensor
    position: int  # in its group
    is_fresh: bool  # whether it has no state before the step


class _Alike(NamedTuple):
    """Parameters of one group that are matrices of one shape."""

    chosen: Chosen
    shape: tuple[int, int]
    members: list[_Matrix]


def shape_of(param: Tensor) -> tuple[int, int]:
    """The matrix that a parameter of two and more dimensions is: its first dimension, and all others."""
    return param.shape[0], math.prod(param.shape[1:])


class Directions:
    """A context for one step, in which the parameters that Muon updates have the state ``direction``."""

    def __init__(self, optimizer: Declared, some: Some | None) -> None:
        self._optimizer = optimizer
        self._some = some
        self._alike: list[_Alike] = []

    def __enter__(self) -> Directions:
        grads = own_grads(self._optimizer, self._some)
        for chosen in chosen_groups(self._optimizer, self._some):
            group = chosen.group
            found: dict[tuple[Any, ...], list[_Matrix]] = {}
            params = group["params"] if group["use_muon"] else []
            for i in with_grad(params, grads):
                param = params[i]
                state = self._optimizer.state.get(param)
                if state:
                    state[DIRECTION] = self._optimizer._new_state(param, group, DIRECTION)
                found.setdefault((*shape_of(param), param.device), []).append(_Matrix(param, i, not state))
            self._alike += [_Alike(chosen, (rows, columns), members) for (rows, columns, _), members in found.items()]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for alike in self._alike:
            for one in alike.members:
                self._taken(one.param)

    def _taken(self, param: Tensor) -> Any:
        state = self._optimizer.state.get(param)
        return state.pop(DIRECTION, None) if state else None

    @torch.no_grad()
    def apply(self, engine_step: Any) -> None:
        """Updates the parameters. Call it when the step has moved the momentum of all."""
        for alike in self._alike:
            rows, columns = alike.shape
            for part in in_batches(len(alike.members), rows * columns):
                members = [alike.members[i] for i in part]
                results = self._orthogonalized(alike, members)
                self._update(engine_step, alike, members, results)

    def _orthogonalized(self, alike: _Alike, members: list[_Matrix]) -> Tensor:
        device = members[0].param.device
        batch = torch.empty(len(members), *alike.shape, dtype=product_type(device), device=device)
        for matrix, one in zip(batch, members, strict=True):
            direction = self._taken(one.param)
            whole = direction.full_tensor() if sharding_of(direction).placements else direction
            matrix.copy_(whole.reshape(alike.shape))
        group = alike.chosen.group
        if batch.numel() == 0:
            return batch
        return newton_schulz(batch, group["ns_coefficients"], group["ns_steps"], group["eps"])

    def _update(self, engine_step: Any, alike: _Alike, members: list[_Matrix], results: Tensor) -> None:
        optimizer, chosen = self._optimizer, alike.chosen
        group = chosen.group
        indices = [one.position for one in members]
        monitor = monitor_of(optimizer) if self._some is None else None
        tables = None if monitor is None else monitor.tables_of_last_step()
        moved = None if tables is None else tables.blank()
        if moved is not None:
            engine_step.leave_statistics(moved.of, chosen.first_number, indices)
        update, storage = _APPLY, None
        scalars: Callable[..., Scalars] = functools.partial(_scalars, group, alike.shape)
        if is_used(group):
            update, storage = storage_of(optimizer, group, update, indices, chosen.numbers(indices))
            update, scalars = update._replace(counts=False), with_average(group, scalars)
        _, decays = Declared._caution(optimizer, group)
        update = update._replace(decays_cautiously=decays)
        prologue = {**IDENTITY_PROLOGUE, "decay": optimizer._prologue(group, 1.0)["decay"]}
        engine_step.add_group(update, prologue, -1.0, scalars, [], optimizer.state, None, storage)
        slow_path = SlowPath(optimizer, engine_step, 1.0)
        for position, (one, result) in enumerate(zip(members, results, strict=True)):
            slow_path.add(self._subject(alike, one, position, update, storage, result))
        check_overlap(optimizer, engine_step)
        write(engine_step, slow_path, None, torch.get_num_threads())
        if tables is not None and moved is not None:
            tables.take_movement(moved)  # the first half has left what is known of the gradient

    def _subject(
        self, alike: _Alike, one: _Matrix, position: int, update: Update, storage: Storage | None, result: Tensor
    ) -> Subject:
        step = self._optimizer.state[one.param].get("step")
        t = int(step.item()) if step is not None else 1 if one.is_fresh else 2
        whole, sharding = result.view(one.param.shape), sharding_of(one.param)
        instead = Instead(replicated(whole, sharding.mesh) if sharding.placements else whole, t)
        name = self._optimizer._name_at(alike.chosen.g, alike.chosen.positions[one.position])
        return Subject(position, one.param, name, alike.chosen.group, update, storage, instead)


def _scalars(group: Group, shape: tuple[int, int], t: Any) -> Scalars:
    """The learning rate for matrices of a shape, as torch's ``adjust_lr_fn`` says."""
    rows, columns = shape
    if group["adjust_lr_fn"] == "match_rms_adamw":
        ratio = 0.2 * math.sqrt(max(rows, columns))
    else:
        ratio = math.sqrt(max(1.0, rows / columns)) if columns else 1.0
    return {"lr": number(group["lr"]) * ratio}
