"""Checks the states of a step's unusual parameters, lays them out for the engine, and makes those that are missing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _runtime
from . import _counters as counters
from ._codes import CODE_TYPES, decode, encode, scale_key
from ._declared import Declared
from ._dense import TYPES, DenseCopies, copy_like, kind_of, lies_like, plain
from ._state_checks import check_likeness, scales_of, tensor_of
from ._storage import KEYS, code, first_value, is_coded, refuse_parts
from ._update import Group, Storage, Subject, Update

_HALF = (torch.bfloat16, torch.float16)


class States:
    """The states of one step. Those that it makes belong to the optimizer from :meth:`commit` on."""

    def __init__(self, optimizer: Declared, copies: DenseCopies) -> None:
        self._optimizer = optimizer
        self._copies = copies
        self._new: list[tuple[Tensor, dict[str, Any]]] = []  # (parameter, entries)
        self._declined: dict[Tensor, dict[str, Any]] = {}
        self._decoded: list[tuple[Tensor, str]] = []  # (parameter, the key of scales that are no longer needed)

    def first(self, param: Tensor, group: Group, update: Update, storage: Storage | None) -> dict[str, Any]:
        """Makes a parameter's states for the time before its first update."""
        optimizer = self._optimizer
        device = counters.place(optimizer._option(group, "capturable"), param)
        entries: dict[str, Any] = {"step": counters.number(0.0, device)} if update.counts else {}
        for key in update.carried:
            entries[key] = counters.number(optimizer._first_value(group, key), device)
        for key in update.states:
            entries[key] = optimizer._new_state(param, group, key)
        if storage is not None:
            code(optimizer, entries, param, update, storage)
            for key in storage.keys(param):
                entries[key] = first_value(optimizer, param, key)
        return entries

    def keep(self, param: Tensor, entries: dict[str, Any]) -> None:
        """Keeps states that the engine has taken."""
        self._new.append((param, entries))

    def decline(self, param: Tensor, entries: dict[str, Any]) -> None:
        """Keeps first states for :meth:`of`, because the engine does not take the parameter as it is, or not yet."""
        self._declined[param] = entries

    def commit(self) -> None:
        """Gives the new states to the optimizer, after everything has been checked."""
        state = self._optimizer.state
        for param, entries in self._new:
            if state.setdefault(param, entries) is not entries:
                state[param].update(entries)
        for param, key in self._decoded:
            state[param].pop(key, None)
        self._new.clear()
        self._decoded.clear()

    def of(
        self, subject: Subject, param: Tensor, layout: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[Tensor, ...], int, tuple[Any, ...] | None]:
        """Returns the states for the engine, the 'step' tensor, the carried scalars, and t for an update without count.

        States have to be on the device of ``param``; they get the layout of ``layout``.
        """
        _, owner, name, group, update, storage, _ = subject
        if not update.states and not update.counts and storage is None:
            return (), None, (), (subject.instead and subject.instead.t) or 1, None
        known, fresh = self._known(subject)
        counter = ("step",) if update.counts else ()
        device = counters.place(self._optimizer._option(group, "capturable"), owner)
        entries: dict[str, Any] = {}
        if fresh:
            if _runtime.capturing():
                raise RuntimeError(
                    f"{name} has no state yet; a CUDA graph would make it anew: take a step before capture"
                )
            entries = self._declined.pop(owner, {}) or self.first(owner, group, update, storage)
            entries = {key: value for key, value in entries.items() if key not in KEYS or known.get(key) is None}
        states: list[Tensor] = []
        for key in update.states:
            like = self._like(layout, key)
            state = entries[key] if key in entries else known[key]
            state = self._as_coded(state, like, subject, len(states), entries, known)
            if update.sums:
                state = self._copies.whole(state, written=True)
            if state.dtype in CODE_TYPES:
                like = like.to(dtype=state.dtype, device="meta")
            states.append(self._laid_out(state, like, param.device, entries, key, name))
        if not fresh:
            for key in counter:
                _replace(known, entries, key, counters.as_count(known.get(key, 1.0), device, name))
            for key in update.carried:
                role = f"the state '{key}' of {name}"
                _replace(known, entries, key, counters.as_number(known[key], device, role))
        kept = None if storage is None else self._kept(subject, known, entries, param, layout)
        numbers: dict[str, Any] = {key: entries.get(key, known.get(key)) for key in (*counter, *update.carried)}
        if entries:
            self._new.append((owner, entries))
        carried = tuple(numbers[key] for key in update.carried)
        t = (subject.instead and subject.instead.t) or (1 if fresh else 2)
        return tuple(states), numbers.get("step"), carried, t, kept

    def _as_coded(
        self, given: Any, layout: Tensor, subject: Subject, k: int, entries: dict[str, Any], known: dict[str, Any]
    ) -> Tensor:
        """Codes or decodes a state that is not kept as the group asks: the option was set later, or in a checkpoint."""
        _, owner, name, _, update, storage, _ = subject
        key = update.states[k]
        state: Tensor = tensor_of(given, f"the state '{key}' of {name}")
        wanted = storage is not None and storage.scales[k] is not None and is_coded(owner)
        coded = state.dtype in CODE_TYPES
        scale = scale_key(key)
        if wanted == coded:
            other = self._other_type(state, subject, key)
            if other is None:
                return state
            entries[key] = state.to(other)
        elif coded:
            entries[key] = decode(state, scales_of({**known, **entries}.get(scale), state, scale, name))
            self._decoded.append((owner, scale))
        else:
            refuse_parts(self._optimizer, owner)
            entries[key], entries[scale] = encode(copy_like(state.float(), layout), self._optimizer._codings[key])
        kept: Tensor = entries[key]
        return kept

    def _other_type(self, state: Tensor, subject: Subject, key: str) -> torch.dtype | None:
        """The type that a state is to have, if it has another one. float32 states of half parameters may stay."""
        _, owner, _, group, *_ = subject
        given, wanted = state.dtype, self._optimizer._state_type(owner, group, key)
        floats = {torch.float32, torch.bfloat16, torch.float16}
        if given == wanted or not {given, wanted} <= floats or (wanted == owner.dtype and given == torch.float32):
            return None
        return wanted

    def _kept(
        self, subject: Subject, known: dict[str, Any], entries: dict[str, Any], param: Tensor, layout: Tensor
    ) -> tuple[Any, ...]:
        """Returns (master, average, copy, scales) for the engine. What an option that was set later needs is made."""
        position, owner, name, _, update, storage, _ = subject
        assert storage is not None

        def kept(key: str | None) -> Tensor | None:
            if key is None:
                return None
            state = entries[key] if key in entries else known.get(key)
            if state is None:
                other = {"master": "remainder", "remainder": "master"}.get(key)
                if known.get(str(other)) is not None:
                    raise RuntimeError(
                        f"the state of {name} has a '{other}', and no '{key}': master was another option"
                    )
                entries[key] = state = first_value(self._optimizer, owner, key)
            if update.sums:
                state = self._copies.whole(state, written=True)
            wanted = torch.int16 if key == "remainder" else torch.float32 if param.dtype in _HALF else param.dtype
            like = torch.empty_strided(layout.size(), layout.stride(), dtype=wanted, device="meta")
            return self._laid_out(state, like, param.device, entries, key, name)

        scales = []
        for key, scale in zip(update.states, storage.scales, strict=True):
            state = entries[key] if key in entries else known[key]
            coded = scale is not None and state.dtype in CODE_TYPES
            scales.append(scales_of({**known, **entries}.get(str(scale)), state, scale, name) if coded else None)
        copy = None
        if storage.copies is not None:
            role = f"the copy of {name}"
            given = tensor_of(storage.copies[position], role)
            copy = plain(self._copies.whole(given, written=True) if update.sums else given, role)
            if copy.shape != param.shape or copy.device != param.device or copy.is_complex() != param.is_complex():
                raise RuntimeError(f"{role} is {kind_of(copy)}, the parameter {kind_of(param)}")
            copy = self._copies.of(copy, layout, role, written=True)
        return kept(storage.master_of(param)), kept(storage.average), copy, tuple(scales)

    def check(self, subject: Subject) -> None:
        """Checks of a DTensor's states what :meth:`of` checks, without communication.

        First states are made here. Made later, these small tensors between large temporary ones would fragment memory.
        """
        _, owner, name, group, update, storage, _ = subject
        known, fresh = self._known(subject)
        if fresh:
            self.decline(owner, self.first(owner, group, update, storage))
            return
        layout = torch.empty(owner.shape, dtype=owner.dtype, device="meta")
        for key in update.states:
            role = f"the state '{key}' of {name}"
            check_likeness(tensor_of(known[key], role), self._like(layout, key), owner.device, role)
        if update.counts:
            counters.as_count(known["step"], counters.place(self._optimizer._option(group, "capturable"), owner), name)

    def _known(self, subject: Subject) -> tuple[dict[str, Any], bool]:
        """Returns the parameter's states, and whether it has none yet."""
        known = self._optimizer.state.get(subject.owner) or {}
        update = subject.update
        keys = (*update.states, *(("step",) if update.counts else ()), *update.carried)
        if subject.storage is not None and "step" not in known and any(key in known for key in update.states):
            keys = (*update.states, *update.carried)  # an option that needs the count was set later
        if not keys and subject.storage is not None:
            keys = tuple(subject.storage.keys(subject.owner))
        missing = [key for key in keys if known.get(key) is None]
        if 0 < len(missing) < len(keys):
            raise RuntimeError(f"the state of {subject.name} has no '{missing[0]}'")
        return known, bool(missing)

    def _like(self, layout: Tensor, key: str) -> Tensor:
        """Returns the layout of a state whose parameter has ``layout``."""
        shape = self._optimizer._state_shape(layout.shape, key)
        return layout if shape == layout.shape else torch.empty(shape, dtype=layout.dtype, device="meta")

    def _laid_out(
        self, state: Any, layout: Tensor, device: torch.device, entries: dict[str, Any], key: str, name: str
    ) -> Tensor:
        role = f"the state '{key}' of {name}"
        state = tensor_of(state, role)
        if state.is_sparse:  # from torch's SGD with sparse gradients
            entries[key] = state = copy_like(state.to_dense(), layout)
        state_plain = plain(state, role, TYPES if layout.dtype in TYPES else (layout.dtype,))
        check_likeness(state_plain, layout, device, role)
        if state_plain is not state:  # a shard or a view of the state, to which updates are written back
            return self._copies.of(state_plain, layout, role, written=True)
        if not lies_like(state_plain, layout):
            # A checkpoint may bring another layout: the state gets its parameter's once and for all.
            entries[key] = state_plain = copy_like(state_plain, layout)
        return state_plain


def _replace(known: dict[str, Any], entries: dict[str, Any], key: str, value: Tensor) -> None:
    if value is not known.get(key):
        entries[key] = value
