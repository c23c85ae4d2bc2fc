"""The slow path of a step: parameters that the engine does not take as they are.

Fresh parameters get their states, unusual layouts get dense copies, and wrong parameters raise an error that names
them. Nothing that the optimizer or the user can see changes before :meth:`SlowPath.commit`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _runtime
from .._runtime import PLAIN
from ._declared import Declared
from ._dense import TYPES, DenseCopies, dense_layout, fits, kind_of, plain, refuse_overlap
from ._layout import shared_pair
from ._rows import Rows
from ._sharded import Sharding, local, sharding_of
from ._states import States
from ._update import Group, Storage, Subject, Update


class _Rule(NamedTuple):
    """A backend's description of a rule."""

    states: int
    scalars: tuple[str, ...]
    reads_grad: bool
    factored: bool  # takes its parameter as contiguous matrices


@functools.cache
def _rules(backend: Any) -> dict[str, _Rule]:
    return {name: _Rule(*told) for name, told in backend.rules().items()}


_ROWS = "master, rounding, narrow states, ema and copies are for whole parameters"


class SlowPath:
    """One step's unusual parameters.

    Args:
        optimizer: the optimizer whose step it is.
        engine_step: the engine's step, with the parameter's group open.
        loss_scale: the number by which the step divides gradients, which are written back where it is not 1.
    """

    def __init__(self, optimizer: Declared, engine_step: Any, loss_scale: float) -> None:
        self._optimizer = optimizer
        self._engine_step = engine_step
        self._loss_scale = loss_scale
        self._unscales = loss_scale != 1.0
        self._capturing = _runtime.capturing()
        self._rules = _rules(_runtime.kernels)
        self._copies = DenseCopies()
        self._states = States(optimizer, self._copies)
        self._views = False

    def add_fresh(
        self, indices: list[int], params: list[Tensor], group: Group, update: Update, storage: Storage | None
    ) -> list[int]:
        """Adds the parameters that, as the engine finds, lack nothing but their states.

        Returns the indices of the others.
        """
        if self._capturing or not (update.states or update.counts or storage):
            return indices
        known = self._optimizer.state
        others = []
        for i in indices:
            param = params[i]
            if type(param) in PLAIN and param.dtype in TYPES and param not in known and _takes_its_size(param):
                entries = self._states.first(param, group, update, storage)
                if self._engine_step.add_fresh(i, param, entries):
                    self._states.keep(param, entries)
                    continue
                self._states.decline(param, entries)
            others.append(i)
        return others

    def add(self, subject: Subject) -> bool:
        """Adds a parameter, or raises an error that names it.

        Returns False for a DTensor whose update needs sums over the whole. It has been checked without communication,
        and is for :meth:`add_whole` when all others are updated.
        """
        sharding = sharding_of(subject.owner)
        self._check_kinds(subject, sharding)
        if subject.update.sums and sharding.sharded_dims is not None:
            self._check_parts(subject)
            return False
        self._add(subject, sharding, whole=False)
        return True

    def add_whole(self, subject: Subject) -> None:
        """Puts the parts of a parameter together and adds the whole, of which each process will keep its own part."""
        self._add(subject, sharding_of(subject.owner), whole=True)

    def _add(self, subject: Subject, sharding: Sharding, *, whole: bool) -> None:
        _, owner, name, group, update, storage, _ = subject
        rule = self._rules[update.rule]
        param = plain(self._copies.whole(owner, written=True) if whole else owner, name)
        if self._optimizer._option(group, "capturable") and not _runtime.on_device(param):
            raise RuntimeError(f"{name} is on device '{param.device}'; capturable=True is for CUDA devices")
        grad = self._gradient(subject, param, sharding) if rule.reads_grad else None
        if grad is not None and grad.is_sparse:
            if storage is not None:
                raise RuntimeError(f"{name} has a sparse gradient, of which fastopt updates rows; {_ROWS}")
            self._add_rows(subject, param, grad)
            return
        layout = dense_layout(param, contiguous=rule.factored)
        dense = self._copies.of(param, layout, name, written=True)
        self._views |= dense is not param
        if grad is not None:
            grad = self._copies.of(grad, layout, f"the gradient of {name}", written=self._unscales)
        self._add_prepared(subject, dense, grad, *self._states.of(subject, param, layout))

    def _check_parts(self, subject: Subject) -> None:
        """Checks what adding the whole will check."""
        owner, name = subject.owner, subject.name
        plain(owner, name)
        if owner.grad is not None:
            _check_likeness(owner.grad, owner, name)
        self._states.check(subject)
        self._views = True

    def _add_prepared(self, subject: Subject, *operands: Any) -> None:
        if not self._engine_step.add_prepared(subject.position, subject.owner, *operands):
            raise RuntimeError(f"{subject.name}: its memory cannot be reached ({type(subject.owner).__name__})")

    def _check_kinds(self, subject: Subject, sharding: Sharding) -> None:
        if self._rules[subject.update.rule].reads_grad:
            assert subject.grad is not None
            self._check_grad_layout(subject.grad, subject.group, subject.name)
        if sharding.is_partial:
            raise RuntimeError(f"{subject.name} is a DTensor whose terms are not added yet (Partial placement)")

    def _check_grad_layout(self, grad: Tensor, group: Group, name: str) -> None:
        kind = type(self._optimizer).__name__
        if grad.is_sparse:
            if self._optimizer._sparse(group) is None:
                hint = self._optimizer._sparse_hint
                raise RuntimeError(f"{kind} does not support sparse gradients{hint} ({name})")
            for option in ("weight_decay", "l1"):
                if self._optimizer._option(group, option, 0) != 0:
                    raise RuntimeError(f"{option} option is not compatible with sparse gradients ({name})")
            if group.get("cautious") and self._optimizer._sparse(group) == "rows":
                raise RuntimeError(
                    f"{name} has a sparse gradient, of which fastopt updates rows; the mean of cautious is of the whole"
                )
        elif grad.layout != torch.strided:
            raise RuntimeError(f"{kind} does not support gradients of layout {grad.layout} ({name})")

    def _gradient(self, subject: Subject, param: Tensor, sharding: Sharding) -> Tensor:
        """Returns the gradient, strided, or sparse where only its rows are updated."""
        grad, name = subject.grad, subject.name
        assert grad is not None
        if grad.is_sparse:
            grad = self._sparse(grad, self._optimizer._sparse(subject.group))
        else:
            placed = sharding.place(grad)
            if subject.update.sums:
                placed = self._copies.whole(placed, written=False)
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
        """Unscales a gradient of which the engine has a copy, as it unscales the copy."""
        self._copies.afterwards(lambda: grad.div_(self._loss_scale))

    def _add_rows(self, subject: Subject, param: Tensor, grad: Tensor) -> None:
        """Adds the rows of the parameter and its states that a sparse gradient touches, as dense copies."""
        name = subject.name
        states, *numbers = self._states.of(subject, param, dense_layout(param))
        for tensor in (param, *states):
            refuse_overlap(tensor, name)

        rows = Rows(grad, name)

        def taken(tensor: Tensor) -> Tensor:
            copy = rows.of(tensor)
            self._copies.afterwards(lambda: rows.put_back(tensor, copy))
            return copy

        values = rows.values
        if self._unscales and grad.is_coalesced():
            values = self._copies.of(grad._values(), dense_layout(values), name, written=True)
        self._views = True
        self._add_prepared(subject, taken(param), values, tuple(map(taken, states)), *numbers)

    def check_views(self) -> None:
        """Refuses views that share memory. The engine does not see them; it finds only dense parameters that do."""
        if not self._views:
            return
        params = [p for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        pair = shared_pair(params)
        if pair is not None:
            one, other = map(self._optimizer._name, pair)
            raise RuntimeError(f"{one} shares memory with {other}")

    def commit(self) -> None:
        """Gives the new states to the optimizer, after everything has been checked."""
        self._states.commit()

    def write_back(self) -> None:
        """Writes the updated copies back and releases them."""
        self._copies.write_back()


def _check_likeness(grad: Tensor, param: Tensor, name: str) -> None:
    if not fits(grad, param):
        raise RuntimeError(f"the gradient of {name} is {kind_of(grad)}, the parameter {kind_of(param)}")


def _takes_its_size(param: Tensor) -> bool:
    """Whether each state takes no more memory than the parameter. The states of an expanded tensor may be too large."""
    return param.layout == torch.strided and param.is_contiguous()
