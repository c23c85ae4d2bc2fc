"""The slow path of a step: parameters the engine does not take as they are.

Fresh ones get their states. Those of an unusual layout are put right. Wrong ones raise an error that
names them. Nothing the optimizer or the user can see changes before :meth:`Preparation.commit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._layout import overlaps_itself, same_layout, shared_pair

if TYPE_CHECKING:
    from ._fused import FusedOptimizer, Group, Update

_HALF = (torch.bfloat16, torch.float16)
_TYPES = (torch.float32, torch.float64, *_HALF, torch.complex64, torch.complex128)
_LAST_FLOAT_STEP = 2**24  # float32 counts exactly up to here


class Preparation:
    """One step's unusual parameters.

    Args:
        optimizer: whose step it is.
        batch: the engine's batch, with the parameter's group open.
        unscales: whether the step writes unscaled gradients back.
    """

    def __init__(self, optimizer: FusedOptimizer, batch: Any, unscales: bool) -> None:
        self._optimizer = optimizer
        self._batch = batch
        self._unscales = unscales
        self._new_states: list[tuple[Tensor, dict[str, Any]]] = []  # (parameter, entries)
        self._stand_ins: list[tuple[Tensor, Tensor]] = []  # (original, its dense copy)
        self._views = False

    @torch.no_grad()
    def add(self, owner: Tensor, name: str, group: Group, update: Update) -> None:
        """Adds one parameter to the batch, or raises an error that calls it ``name``."""
        assert owner.grad is not None
        self._check_grad_layout(owner.grad, name)
        param = self._plain(owner, name)
        grad = self._plain(_placed_like(owner, owner.grad), f"the gradient of {name}")
        if grad.dtype != param.dtype or grad.shape != param.shape:
            raise RuntimeError(
                f"the gradient of {name} is {grad.dtype} of shape {tuple(grad.shape)}, "
                f"the parameter {param.dtype} of shape {tuple(param.shape)}"
            )
        # The parameter's strides if it is dense, otherwise some that are; no memory.
        layout = torch.empty_like(param, memory_format=torch.preserve_format, device="meta")
        dense = self._in_layout(param, layout, name, written=True)
        self._views |= dense is not param
        grad = self._in_layout(grad, layout, f"the gradient of {name}", written=self._unscales)
        states, step, t = self._states(owner, group, update, layout, name)
        try:
            self._batch.add(owner, dense, grad, states, step, t)
        except ValueError as error:
            raise RuntimeError(f"{name}: its memory cannot be reached ({type(owner).__name__})") from error

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
        for param, entries in self._new_states:
            self._optimizer.state[param].update(entries)

    @torch.no_grad()
    def write_back(self) -> None:
        """Copies the updated stand-ins to what they stand for."""
        for original, stand_in in self._stand_ins:
            original.copy_(stand_in)

    def _check_grad_layout(self, grad: Tensor, name: str) -> None:
        if grad.layout != torch.strided:
            kind = type(self._optimizer).__name__
            if grad.is_sparse:
                hint = self._optimizer._sparse_hint
                raise RuntimeError(f"{kind} does not support sparse gradients{hint} ({name})")
            raise RuntimeError(f"{kind} does not support gradients of layout {grad.layout} ({name})")

    def _plain(self, tensor: Tensor, name: str) -> Tensor:
        """The torch.Tensor that owns the memory, or an error."""
        if hasattr(tensor, "to_local"):  # DTensor: each process updates its own shard
            tensor = tensor.to_local()
        kind = type(tensor)
        if not issubclass(kind, Tensor) or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
            raise TypeError(f"{name} is a {kind.__name__}, whose memory fastopt cannot update")
        if kind not in (Tensor, torch.nn.Parameter):
            tensor = tensor.as_subclass(Tensor)
        if tensor.layout != torch.strided:
            raise RuntimeError(f"{name} has layout {tensor.layout}; fastopt updates strided tensors")
        if tensor.device.type != "cpu":
            raise RuntimeError(
                f"{name} is on device '{tensor.device}'; this build of fastopt has kernels for the CPU only"
            )
        if tensor.dtype not in _TYPES:
            raise RuntimeError(f"{name} has dtype {tensor.dtype}; fastopt updates {', '.join(map(str, _TYPES))}")
        return tensor

    def _in_layout(self, tensor: Tensor, layout: Tensor, name: str, *, written: bool) -> Tensor:
        """The tensor itself where it lies in memory as ``layout`` does, or a copy that does."""
        if written and overlaps_itself(tensor):
            raise RuntimeError(
                f"{name} is an expanded or overlapping tensor (strides {tensor.stride()}): more than one "
                "element refers to a single memory location; clone() it first"
            )
        if _lies_like(tensor, layout):
            return tensor
        stand_in = _copy(tensor, layout)
        if written:
            self._stand_ins.append((tensor, stand_in))
        return stand_in

    def _states(
        self, owner: Tensor, group: Group, update: Update, layout: Tensor, name: str
    ) -> tuple[tuple[Tensor, ...], Tensor | None, int]:
        """The states for the batch, the 'step' tensor, and t for an update that does not count."""
        if not update.states and not update.counts:
            return (), None, 1
        known = self._optimizer.state.get(owner) or {}
        keys = (*update.states, "step") if update.counts else update.states
        entries: dict[str, Any] = {}
        fresh = all(known.get(key) is None for key in keys)
        if fresh:
            if update.counts:
                entries["step"] = torch.tensor(0.0, dtype=_counter_type())
            for key in update.states:
                entries[key] = self._optimizer._new_state(owner, group, key)
        for key in keys:
            if key not in entries and known.get(key) is None:
                raise RuntimeError(f"the state of {name} has no '{key}'")

        states = []
        for key in update.states:
            state = entries.get(key, known.get(key))
            states.append(self._state(state, layout, entries, key, name))
        step = None
        if update.counts:
            step = entries.get("step")
            if step is None:
                step = self._counter(known["step"], entries, name)
        if entries:
            self._new_states.append((owner, entries))
        return tuple(states), step, 1 if fresh else 2

    def _state(self, state: Any, layout: Tensor, entries: dict[str, Any], key: str, name: str) -> Tensor:
        role = f"the state '{key}' of {name}"
        if not isinstance(state, Tensor):
            raise TypeError(f"{role} is a {type(state).__name__}, not a tensor")
        plain = self._plain(state, role)
        wide = layout.dtype in _HALF and plain.dtype == torch.float32
        if plain.shape != layout.shape or not (wide or plain.dtype == layout.dtype):
            raise RuntimeError(
                f"{role} is {plain.dtype} of shape {tuple(plain.shape)}, "
                f"the parameter {layout.dtype} of shape {tuple(layout.shape)}"
            )
        if plain is not state:  # a shard or a view of the state's own memory, which it goes back to
            return self._in_layout(plain, layout, role, written=True)
        if not _lies_like(plain, layout):
            # Of another layout, from a checkpoint: laid out like its parameter once and for all.
            entries[key] = plain = _copy(plain, layout)
        return plain

    def _counter(self, step: Any, entries: dict[str, Any], name: str) -> Tensor:
        """The 'step' tensor, replaced where the engine could not count on in it."""
        value = float(step)
        if not (value >= 0 and value == int(value)):
            raise RuntimeError(f"the state 'step' of {name} is {value}, not a count")
        exact = value < _LAST_FLOAT_STEP
        good = isinstance(step, Tensor) and step.device.type == "cpu" and step.numel() == 1
        if good and (step.dtype == torch.float64 or (exact and step.dtype == torch.float32)):
            return step  # type: ignore[no-any-return]
        entries["step"] = torch.tensor(value, dtype=_counter_type() if exact else torch.float64)
        return entries["step"]  # type: ignore[no-any-return]


def _lies_like(tensor: Tensor, layout: Tensor) -> bool:
    return same_layout(tensor, layout) and not tensor.is_neg() and not tensor.is_conj()


def _copy(tensor: Tensor, layout: Tensor) -> Tensor:
    return torch.empty_strided(layout.size(), layout.stride(), dtype=tensor.dtype).copy_(tensor)


def _placed_like(param: Tensor, grad: Tensor) -> Tensor:
    """A DTensor's gradient may be sharded, or summed, in another way than the parameter."""
    placements = getattr(param, "placements", None)
    if placements is None or getattr(grad, "placements", placements) == placements:
        return grad
    return grad.redistribute(param.device_mesh, placements)  # type: ignore[attr-defined,no-any-return]


def _counter_type() -> torch.dtype:
    """torch's choice for its own 'step' tensors."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
