"""The loop around directions and line searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import _checks
from .._hooked import hooked
from .._update import Group
from .points import Evaluator
from .report import Report
from .run import SEARCHES, Method, Run
from .vectors import Vectors


class Minimizer(Method, Optimizer):
    """An optimizer whose step evaluates the loss several times. A subclass chooses directions.

    Its state is that of the first parameter, with torch's keys: ``func_evals``, ``n_iter``, the direction ``d`` and the
    step ``t`` along it, ``prev_flat_grad`` and ``prev_loss`` from before that step.
    """

    _lists: ClassVar[tuple[str, ...]] = ()  # keys of the state that are lists of vectors
    _needed: ClassVar[tuple[str, ...]]  # counters in the state of every optimizer that has made a step
    last_report: Report | None = None
    _vectors: Vectors | None = None

    # ---- Options

    def _check_group(self, group: Group) -> None:
        _checks.check_lr(group["lr"])
        for key in ("max_iter", "max_eval", "max_ls"):
            if key == "max_ls" and group[key] is None:
                continue
            if not isinstance(group[key], int) or group[key] < 1:
                raise ValueError(f"Invalid {key}: {group[key]}, not a positive integer")
        for key in ("tolerance_grad", "tolerance_change"):
            _checks.check_range(key, group[key])
        if group["line_search_fn"] not in (None, *SEARCHES):
            raise ValueError(f"Invalid line_search_fn: {group['line_search_fn']!r}, not None or one of {[*SEARCHES]}")

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        group, first = self.param_groups[-1], self.param_groups[0]
        try:
            self._check_group(group)
            for key in self.defaults:
                if key != "lr" and group[key] != first[key]:
                    raise ValueError(f"{key} is {first[key]} in the first group, and one for all: {group[key]}")
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a checkpoint of torch's has fewer options
            for key, value in self.defaults.items():
                group.setdefault(key, value)

    def __getstate__(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("defaults", "state", "param_groups")}

    def _name(self, param: Tensor) -> str:
        for g, group in enumerate(self.param_groups):
            for i, other in enumerate(group["params"]):
                if other is param:
                    names = group.get("param_names")
                    return f"parameter {names[i]!r}" if names else f"parameter {i} of group {g}"
        return "a parameter"

    # ---- The step

    @property
    def _state(self) -> dict[str, Any]:
        """The state, which is the first parameter's, as in torch's LBFGS."""
        first = next(group["params"][0] for group in self.param_groups if group["params"])
        state: dict[str, Any] = self.state[first]
        return state

    @hooked
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs up to ``max_iter`` iterations. Afterwards ``last_report`` tells what it did.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward()`` and returns the loss, a tensor of one
                element or a float. It is called several times, with gradients enabled.

        Returns:
            What the closure returned at the parameters before the step.

        Raises:
            TypeError: there is no closure, or it returned no number.
            RuntimeError: it returned several; or a parameter or gradient cannot be taken.
            ValueError: an option of the group is out of range.
        """
        if not callable(closure):
            raise TypeError(
                f"{type(self).__name__}.step needs a closure, which computes the gradients and returns the loss"
            )
        group = self.param_groups[0]
        for each in self.param_groups:
            self._check_group(each)
        state = self._state
        for key in self._needed:
            state.setdefault(key, 0)
        vectors = self._take_vectors(state)
        run = Run(self, state, vectors, Evaluator(closure, vectors, bool(group["maximize"])), group)
        try:
            return run.all()
        finally:
            self.last_report = run.report()

    def _take_vectors(self, state: dict[str, Any]) -> Vectors:
        """Returns the parameters as vectors, and forgets what belongs to other ones."""
        vectors = self._vectors
        if vectors is not None and vectors.are_of(self.param_groups):
            same = vectors.renewed(self.param_groups)
        else:
            # A state without vectors of its own is a checkpoint's, whose pairs are of these parameters if they fit.
            loaded = vectors is None
            vectors = self._vectors = Vectors(self.param_groups, self._name)
            same = loaded and ("d" not in state or state["d"].numel() == vectors.numel)
            if same:
                self._cast(state, vectors.dtype)
        if not same:
            for key in ("d", "prev_flat_grad", "prev_loss", "t"):
                state.pop(key, None)
            self._unseen = None
            self._restart(state)
        return vectors

    # ---- Checkpoints

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a checkpoint of this class. LBFGS also takes one of torch's LBFGS.

        Raises:
            ValueError: the checkpoint is of another class, or its vectors have another number of elements than the
                parameters; or torch refuses it. Nothing has changed then.
        """
        vectors = Vectors(self.param_groups, self._name)
        given = state_dict["state"].get(0, {})
        for key in self._needed if given else ():
            if key not in given:
                raise ValueError(f"the checkpoint is none of {type(self).__name__}: its state has no {key}")
        for key in ("d", "prev_flat_grad", *self._lists):
            for vector in _listed(given.get(key)):
                if not isinstance(vector, Tensor) or vector.numel() != vectors.numel:
                    raise ValueError(f"the checkpoint's {key} is no vector of the {vectors.numel} parameters' elements")
        super().load_state_dict(state_dict)
        self._vectors = self._unseen = None
        if not given:
            return
        state = self._state
        for key in ("d", "prev_flat_grad", *self._lists):  # torch has cast them to the first parameter's type
            if key in given:
                copies = [v.detach().to(vectors.device, copy=True) for v in _listed(given[key])]
                state[key] = copies if key in self._lists else copies[0]

    def _cast(self, state: dict[str, Any], dtype: torch.dtype) -> None:
        """Casts all vectors of a state: torch's have the parameters' type."""
        for key in ("d", "prev_flat_grad"):
            if key in state:
                state[key] = state[key].to(dtype)
        for key in self._lists:
            if any(vector.dtype != dtype for vector in state.get(key, ())):
                state[key] = [vector.to(dtype) for vector in state[key]]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
