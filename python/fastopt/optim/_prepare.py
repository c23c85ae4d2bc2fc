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
from ._dense import TYPES, StandIns, dense_layout, kind_of, plain, refuse_overlap
from ._layout import shared_pair
from ._rows import Rows
from ._sharded import is_partial, local, placed_like
from ._states import States

if TYPE_CHECKING:
    from ._fused import FusedOptimizer
    from ._update import Group, Update


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
        self._stand_ins = StandIns()
        self._states = States(optimizer, self._stand_ins)
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
                entries = self._states.first(param, group, update)
                if self._batch.add_fresh(i, param, entries):
                    self._states.keep(param, entries)
                    continue
                self._states.decline(param, entries)
            others.append(i)
        return others

    def add(self, index: int, owner: Tensor, name: str, group: Group, update: Update) -> None:
        """Adds the parameter at ``index`` of what the batch took last, or raises an error that calls it ``name``."""
        rule = RULES[update.rule]
        self._check_kinds(owner, name, group, update)
        param = plain(self._stand_ins.whole(owner, written=True) if update.sums else owner, name)
        if self._optimizer._option(group, "capturable") and not _runtime.on_device(param):
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
        states, step, carried, t = self._states.of(owner, param, group, update, layout, name)
        self._to_batch(name, index, owner, dense, grad, states, step, carried, t)

    def check_cut(self, owner: Tensor, name: str, group: Group, update: Update) -> None:
        """What :meth:`add` checks, of a DTensor that is put together and added later. Nothing is communicated."""
        self._check_kinds(owner, name, group, update)
        plain(owner, name)
        if owner.grad is not None:
            _check_likeness(owner.grad, owner, name)
        self._states.check(owner, group, update, name)
        self._views = True

    def _to_batch(self, name: str, index: int, owner: Tensor, *operands: Any) -> None:
        if not self._batch.add(index, owner, *operands):
            raise RuntimeError(f"{name}: its memory cannot be reached ({type(owner).__name__})")

    def _check_kinds(self, owner: Tensor, name: str, group: Group, update: Update) -> None:
        if RULES[update.rule].reads_grad:
            assert owner.grad is not None
            self._check_grad_layout(owner.grad, group, name)
        if is_partial(owner):
            raise RuntimeError(f"{name} is a DTensor whose terms are not added yet (Partial placement)")

    def _check_grad_layout(self, grad: Tensor, group: Group, name: str) -> None:
        kind = type(self._optimizer).__name__
        if grad.is_sparse:
            if self._optimizer._sparse(group) is None:
                hint = self._optimizer._sparse_hint
                raise RuntimeError(f"{kind} does not support sparse gradients{hint} ({name})")
            for option in ("weight_decay", "l1"):
                if self._optimizer._option(group, option, 0) != 0:
                    raise RuntimeError(f"{option} option is not compatible with sparse gradients ({name})")
        elif grad.layout != torch.strided:
            raise RuntimeError(f"{kind} does not support gradients of layout {grad.layout} ({name})")

    def _gradient(self, owner: Tensor, param: Tensor, group: Group, update: Update, name: str) -> Tensor:
        """Strided, or sparse where only its rows are to be updated."""
        grad = owner.grad
        assert grad is not None
        if grad.is_sparse:
            grad = self._sparse(grad, self._optimizer._sparse(group))
        else:
            placed = placed_like(owner, grad)
            if update.sums:
                placed = self._stand_ins.whole(placed, written=False)
            if self._unscales and placed is not grad:
                self._divide_afterwards(local(grad))
            grad = plain(placed, f"the gradient of {name}")
        _check_likeness(grad, param, name)
        return grad

    def _sparse(self, grad: Tensor, how: str | None) -> Tensor:
        if self._unscales and not (how == "rows" and grad.is_coalesced()):
            self._divide_afterwards(grad._values())
        return grad if how == "rows" else grad.to_dense()

    def _divide_afterwards(self, grad: Tensor) -> None:
        """A gradient that the batch has a copy of: unscaled like the copy."""
        self._stand_ins.afterwards(lambda: grad.div_(self._loss_scale))

    def _add_rows(
        self, index: int, owner: Tensor, param: Tensor, grad: Tensor, name: str, group: Group, update: Update
    ) -> None:
        """Of the parameter and its states, what a sparse gradient touches, as dense tensors of their own."""
        layout = dense_layout(param)
        states, step, carried, t = self._states.of(owner, param, group, update, layout, name)
        for tensor in (param, *states):
            refuse_overlap(tensor, name)

        rows = Rows(grad, name)

        def taken(tensor: Tensor) -> Tensor:
            copy = rows.of(tensor)
            self._stand_ins.afterwards(lambda: rows.put_back(tensor, copy))
            return copy

        values = rows.values
        if self._unscales and grad.is_coalesced():
            values = self._stand_ins.take(grad._values(), dense_layout(values), name, written=True)
        self._views = True
        self._to_batch(name, index, owner, taken(param), values, tuple(map(taken, states)), step, carried, t)

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
        self._states.commit()

    def write_back(self) -> None:
        """Copies the updated stand-ins to what they stand for, and lets go of them."""
        self._stand_ins.write_back()


def _check_likeness(grad: Tensor, param: Tensor, name: str) -> None:
    if grad.dtype != param.dtype or grad.shape != param.shape or grad.device != param.device:
        raise RuntimeError(f"the gradient of {name} is {kind_of(grad)}, the parameter {kind_of(param)}")


def _takes_its_size(param: Tensor) -> bool:
    """Whether its states take no more memory than itself: an expanded tensor's may take all there is."""
    return param.layout == torch.strided and param.is_contiguous()
