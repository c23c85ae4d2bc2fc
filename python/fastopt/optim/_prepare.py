"""The slow path of a step: parameters the engine does not take as they are.

Fresh ones get their states. Those of an unusual layout are put right. Wrong ones raise an error that
names them. Nothing the optimizer or the user can see changes before :meth:`Preparation.commit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _runtime
from .._runtime import PLAIN
from ..reference import RULES
from . import _counters as counters
from ._dense import TYPES, StandIns, copy_like, dense_layout, lies_like, plain, refuse_overlap
from ._layout import shared_pair
from ._sharded import cut_of, is_partial, keep_part, local, placed_like

if TYPE_CHECKING:
    from ._fused import FusedOptimizer
    from ._update import Group, Update

_HALF = (torch.bfloat16, torch.float16)


class Preparation:
    """One step's unusual parameters.

    Args:
        optimizer: whose step it is.
        batch: the engine's batch, with the parameter's group open.
        loss_scale: what the step divides gradients by and writes back, where it is not 1.
    """

    def __init__(self, optimizer: FusedOptimizer, batch: Any, loss_scale: float) -> None:
        self._optimizer = optimizer
        self._batch = batch
        self._loss_scale = loss_scale
        self._unscales = loss_scale != 1.0
        self._capturing = _runtime.capturing()
        self._new_states: list[tuple[Tensor, dict[str, Any]]] = []  # (parameter, entries)
        self._declined: dict[Tensor, dict[str, Any]] = {}  # made, but the engine does not take them as they are
        self._stand_ins = StandIns()
        self._views = False

    def add_fresh(self, indices: list[int], params: list[Tensor], group: Group, update: Update) -> list[int]:
        """Adds those of the parameters that lack nothing but their states, which the engine can tell.

        Returns the indices of the others.
        """
        if self._capturing or not (update.states or update.counts):
            return indices
        known = self._optimizer.state
        others = []
        for i in indices:
            param = params[i]
            if type(param) in PLAIN and param.dtype in TYPES and param not in known and _takes_its_size(param):
                entries = self._first_entries(param, group, update)
                if self._batch.add_fresh(i, param, entries):
                    self._new_states.append((param, entries))
                    continue
                self._declined[param] = entries
            others.append(i)
        return others

    def add(self, index: int, owner: Tensor, name: str, group: Group, update: Update) -> None:
        """Adds the parameter at ``index`` of what the batch took last, or raises an error that calls it ``name``."""
        rule = RULES[update.rule]
        if rule.reads_grad:
            self._check_grad_layout(owner.grad, group, name)
        if is_partial(owner):
            raise RuntimeError(f"{name} is a DTensor whose terms are not added yet (Partial placement)")
        param = plain(self._all_of(owner, update), name)
        if group.get("capturable") and not _runtime.on_device(param):
            raise RuntimeError(f"{name} is on device '{param.device}'; capturable=True is for CUDA devices")
        grad = self._gradient(owner, param, group, update, name) if rule.reads_grad else None
        if grad is not None and grad.is_sparse:
            self._add_rows(index, owner, param, grad, name, group, update)
            return
        layout = dense_layout(param, contiguous=rule.factored)
        dense = self._stand_ins.take(param, layout, name, written=True)
        self._views |= dense is not param
        if grad is not None:
            grad = self._stand_ins.take(grad, layout, f"the gradient of {name}", written=self._unscales)
        states, step, carried, t = self._states(owner, param, group, update, layout, name)
        self._to_batch(name, index, owner, dense, grad, states, step, carried, t)

    def _all_of(self, tensor: Tensor, update: Update, written: bool = True) -> Tensor:
        """A DTensor's parts put together, where the rule needs sums over the whole."""
        if not update.sums or cut_of(tensor) is None:
            return tensor
        whole: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        if written:
            self._stand_ins.afterwards(lambda: keep_part(tensor, whole))
        return whole

    def _to_batch(self, name: str, index: int, owner: Tensor, *operands: Any) -> None:
        if not self._batch.add(index, owner, *operands):
            raise RuntimeError(f"{name}: its memory cannot be reached ({type(owner).__name__})")

    def _check_grad_layout(self, grad: Tensor | None, group: Group, name: str) -> None:
        assert grad is not None
        kind = type(self._optimizer).__name__
        if grad.is_sparse:
            if self._optimizer._sparse(group) is None:
                hint = self._optimizer._sparse_hint
                raise RuntimeError(f"{kind} does not support sparse gradients{hint} ({name})")
            for option in ("weight_decay", "l1"):
                if group.get(option, 0) != 0:
                    raise RuntimeError(f"{option} option is not compatible with sparse gradients ({name})")
        elif grad.layout != torch.strided:
            raise RuntimeError(f"{kind} does not support gradients of layout {grad.layout} ({name})")

    def _gradient(self, owner: Tensor, param: Tensor, group: Group, update: Update, name: str) -> Tensor:
        """Strided, or sparse and coalesced where only its rows are to be updated."""
        grad = owner.grad
        assert grad is not None
        if grad.is_sparse:
            grad = self._sparse(grad, self._optimizer._sparse(group))
        else:
            placed = self._all_of(placed_like(owner, grad), update, written=False)
            if self._unscales and placed is not grad:
                self._divide_afterwards(local(grad))
            grad = plain(placed, f"the gradient of {name}")
        if grad.dtype != param.dtype or grad.shape != param.shape or grad.device != param.device:
            raise RuntimeError(f"the gradient of {name} is {_kind(grad)}, the parameter {_kind(param)}")
        return grad

    def _sparse(self, grad: Tensor, how: str | None) -> Tensor:
        taken = grad.coalesce() if how == "rows" else grad.to_dense()
        if self._unscales and taken is not grad:
            self._divide_afterwards(grad._values())
        return taken

    def _divide_afterwards(self, grad: Tensor) -> None:
        """A gradient that the batch has a copy of: unscaled like the copy."""
        self._stand_ins.afterwards(lambda: grad.div_(self._loss_scale))

    def _add_rows(
        self, index: int, owner: Tensor, param: Tensor, grad: Tensor, name: str, group: Group, update: Update
    ) -> None:
        """Of the parameter and its states, what a sparse gradient touches, as dense tensors of their own."""
        where = tuple(grad._indices())
        layout = dense_layout(param)
        states, step, carried, t = self._states(owner, param, group, update, layout, name)
        for tensor in (param, *states):
            refuse_overlap(tensor, name)

        def rows(tensor: Tensor) -> Tensor:
            taken = tensor[where].contiguous()

            def put_back() -> None:
                tensor[where] = taken

            self._stand_ins.afterwards(put_back)
            return taken

        values = grad._values()
        if not values.is_contiguous():
            values = self._stand_ins.take(values, dense_layout(values, True), name, written=self._unscales)
        self._views = True
        self._to_batch(name, index, owner, rows(param), values, tuple(map(rows, states)), step, carried, t)

    def check_views(self) -> None:
        """The engine finds dense parameters that share memory; views it does not see."""
        if not self._views:
            return
        params = [p for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        pair = shared_pair(params)
        if pair is not None:
            one, other = map(self._optimizer._name, pair)
            raise RuntimeError(f"{one} shares memory with {other}")

    def commit(self) -> None:
        """Everything has been checked: the new states become the optimizer's."""
        state = self._optimizer.state
        for param, entries in self._new_states:
            if state.setdefault(param, entries) is not entries:
                state[param].update(entries)

    def write_back(self) -> None:
        """Copies the updated stand-ins to what they stand for."""
        self._stand_ins.write_back()

    def _states(
        self, owner: Tensor, param: Tensor, group: Group, update: Update, layout: Tensor, name: str
    ) -> tuple[tuple[Tensor, ...], Tensor | None, tuple[Tensor, ...], int]:
        """The states for the batch, the 'step' tensor, the carried scalars, and t for an update that does not count."""
        if not update.states and not update.counts:
            return (), None, (), 1
        known = self._optimizer.state.get(owner) or {}
        counter = ("step",) if update.counts else ()
        keys = (*update.states, *counter, *update.carried)
        device = counters.place(group.get("capturable"), owner)
        entries: dict[str, Any] = {}
        fresh = all(known.get(key) is None for key in keys)
        if fresh:
            if self._capturing:
                raise RuntimeError(
                    f"{name} has no state yet; a CUDA graph would make it anew: take a step before capture"
                )
            entries = self._declined.pop(owner, {}) or self._first_entries(owner, group, update)
        for key in keys:
            if key not in entries and known.get(key) is None:
                raise RuntimeError(f"the state of {name} has no '{key}'")

        states = []
        for key in update.states:
            shape = self._optimizer._state_shape(layout.shape, key)
            like = layout if shape == layout.shape else torch.empty(shape, dtype=layout.dtype, device="meta")
            state = self._all_of(entries[key] if key in entries else known[key], update)
            states.append(self._state(state, like, param.device, entries, key, name))
        if not fresh:
            for key in counter:
                _replace(known, entries, key, counters.as_count(known[key], device, name))
            for key in update.carried:
                _replace(known, entries, key, counters.as_number(known[key], device))
        numbers: dict[str, Any] = {key: entries.get(key, known.get(key)) for key in (*counter, *update.carried)}
        if entries:
            self._new_states.append((owner, entries))
        return tuple(states), numbers.get("step"), tuple(numbers[key] for key in update.carried), 1 if fresh else 2

    def _first_entries(self, param: Tensor, group: Group, update: Update) -> dict[str, Any]:
        """A parameter's states before its first update."""
        optimizer = self._optimizer
        device = counters.place(group.get("capturable"), param)
        entries: dict[str, Any] = {"step": counters.number(0.0, device)} if update.counts else {}
        for key in update.carried:
            entries[key] = counters.number(optimizer._first_value(group, key), device)
        for key in update.states:
            entries[key] = optimizer._new_state(param, group, key)
        return entries

    def _state(
        self, state: Any, layout: Tensor, device: torch.device, entries: dict[str, Any], key: str, name: str
    ) -> Tensor:
        role = f"the state '{key}' of {name}"
        if not isinstance(state, Tensor):
            raise TypeError(f"{role} is a {type(state).__name__}, not a tensor")
        if state.is_sparse:  # from torch's SGD with sparse gradients
            entries[key] = state = copy_like(state.to_dense(), layout)
        state_plain = plain(state, role)
        wide = layout.dtype in _HALF and state_plain.dtype == torch.float32
        fits = state_plain.shape == layout.shape and (wide or state_plain.dtype == layout.dtype)
        if not fits or state_plain.device != device:
            wanted = f"{layout.dtype} of shape {tuple(layout.shape)} on {device}"
            raise RuntimeError(f"{role} is {_kind(state_plain)}, where {wanted} belongs")
        if state_plain is not state:  # a shard or a view of the state's own memory, which it goes back to
            return self._stand_ins.take(state_plain, layout, role, written=True)
        if not lies_like(state_plain, layout):
            # Of another layout, from a checkpoint: laid out like its parameter once and for all.
            entries[key] = state_plain = copy_like(state_plain, layout)
        return state_plain


def _replace(known: dict[str, Any], entries: dict[str, Any], key: str, value: Tensor) -> None:
    if value is not known[key]:
        entries[key] = value


def _takes_its_size(param: Tensor) -> bool:
    """Whether its states take no more memory than itself: an expanded tensor's may take all there is."""
    return param.layout == torch.strided and param.is_contiguous()


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
