from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import _runtime
from .._compiler import eager
from ._checks import check_number, check_range, check_state_dtype
from ._fused import FusedOptimizer
from ._hooked import hooked
from ._minimize.minimizer import Minimizer
from ._program import Scalars
from ._sharded import refuse_zero
from ._step import run
from ._update import IDENTITY_PROLOGUE, Group, Part, Update

_SYNC = Update("lookahead", ("slow_param",), counts=False)
_NUMBERS = {"k": "lookahead_k", "alpha": "lookahead_alpha", "steps": "lookahead_steps"}  # in a checkpoint's groups


def _split(state_dict: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Splits a checkpoint into one of the inner optimizer, one of the slow weights, and the numbers, if it has them."""
    groups = [{k: v for k, v in g.items() if k not in _NUMBERS.values()} for g in state_dict["param_groups"]]
    state = state_dict["state"]
    slow = {i: {"slow_param": entries["slow_param"]} for i, entries in state.items() if "slow_param" in entries}
    inner = {i: {k: v for k, v in entries.items() if k != "slow_param"} for i, entries in state.items()}
    first: dict[str, Any] = next(iter(state_dict["param_groups"]), {})
    numbers = {name: first[key] for name, key in _NUMBERS.items() if key in first}
    if len(numbers) < len(_NUMBERS) and (slow or numbers):
        missing = ", ".join(key for key in _NUMBERS.values() if key not in first)
        raise ValueError(f"the checkpoint has a Lookahead's slow weights, but its groups have no {missing}")
    rest = {key: value for key, value in state_dict.items() if key not in ("state", "param_groups")}
    return (
        {**rest, "state": {i: entries for i, entries in inner.items() if entries}, "param_groups": groups},
        {"state": slow, "param_groups": groups},
        numbers,
    )


class Lookahead(FusedOptimizer):
    r"""Lookahead around any optimizer: slow weights that follow the fast ones every ``k`` steps.

    .. math::
        \phi \leftarrow \phi + \alpha\, (p - \phi), \qquad p \leftarrow \phi
        \qquad\text{after every } k \text{ steps of the inner optimizer}

    The slow weights :math:`\phi` start as copies of the parameters at the first step. Parameter groups are those of
    the inner optimizer, so schedulers and ``zero_grad`` work with either of the two. GradScaler's contract holds if
    it does for the inner optimizer; a step skipped because of an inf is not counted.

    Args:
        optimizer: any ``torch.optim.Optimizer``, of fastopt or not. Step through the Lookahead from then on.
        k: inner steps per slow one (default: 5).
        alpha: how far the slow weights go, in [0, 1] (default: 0.5).
        state_dtype: ``torch.float32`` keeps the slow weights of bfloat16 and float16 parameters in float32;
            None takes the group's ``state_dtype``, if it has one (default: None).

    Raises:
        TypeError: ``optimizer`` is not an optimizer, or ``k`` or ``alpha`` not a number.
        ValueError: ``k`` or ``alpha`` is out of range.

    Examples:
        >>> optimizer = fastopt.Lookahead(fastopt.AdamW(model.parameters(), lr=1e-3), k=5, alpha=0.5)
        >>> loss_fn(model(input), target).backward()
        >>> optimizer.step()

    Reference: Zhang et al., *Lookahead Optimizer: k steps forward, 1 step back*, arXiv 1907.08610.
    """

    _is_stored = False
    _is_separable = False

    def __init__(
        self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5, *, state_dtype: torch.dtype | None = None
    ) -> None:
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, Lookahead):
            raise TypeError(f"Lookahead goes around an optimizer, not a {type(optimizer).__name__}")
        if isinstance(optimizer, Minimizer):
            name = type(optimizer).__name__
            raise TypeError(f"Lookahead moves parameters between steps, of which the directions of {name} know nothing")
        check_number("k value", k)
        if k < 1 or k != int(k):
            raise ValueError(f"Invalid k value: {k}")
        check_range("alpha value", alpha)
        if alpha > 1:
            raise ValueError(f"Invalid alpha value: {alpha}")
        check_state_dtype(state_dtype)
        self.optimizer = optimizer
        self.k, self.alpha, self.steps, self.state_dtype = int(k), alpha, 0, state_dtype
        self._known: list[int] = []  # the parameters that have slow weights, by id
        self.state = defaultdict(dict)
        self.__setstate__({})  # torch's constructor would make other groups

    @property
    def param_groups(self) -> list[Group]:  # type: ignore[override]
        """The inner optimizer's groups."""
        return self.optimizer.param_groups

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimizer's defaults."""
        return self.optimizer.defaults

    @property
    def group_keys(self) -> frozenset[str]:  # type: ignore[override]
        """The options that the inner optimizer knows."""
        return frozenset(getattr(self.optimizer, "group_keys", self.optimizer.defaults))

    @property  # type: ignore[misc]
    def _step_supports_amp_scaling(self) -> bool:
        return bool(getattr(self.optimizer, "_step_supports_amp_scaling", False))

    @property
    @eager
    def grad_norm(self) -> Tensor | None:
        """The norm that the inner optimizer clipped by, or None."""
        return getattr(self.optimizer, "grad_norm", None)

    def add_param_group(self, param_group: Group) -> None:
        self.optimizer.add_param_group(param_group)

    def _check_group(self, group: Group) -> None:
        """Checks nothing: the inner optimizer checks its groups."""

    def _check_flags(self, group: Group) -> None:
        """Checks nothing: the inner optimizer checks its flags."""

    def _parts(self, group: Group) -> list[Part]:
        slow = [i for i, param in enumerate(group["params"]) if param in self.state]
        return [(_SYNC, lambda t: {"alpha": self.alpha}, slow)]

    def _prologue(self, group: Group, loss_scale: float) -> Scalars:
        return IDENTITY_PROLOGUE

    def _caution(self, group: Group) -> tuple[bool, bool]:
        return False, False  # the inner optimizer has been cautious

    def _max_norm(self, group: Group) -> float | None:
        return None

    def _state_type(self, param: Tensor, group: Group, key: str) -> torch.dtype:
        if self.state_dtype is not None:
            return torch.promote_types(param.dtype, self.state_dtype)
        return super()._state_type(param, group, key)

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        return super()._new_state(param, group, key).copy_(param)

    @torch.no_grad()
    def _first_weights(self) -> dict[Tensor, dict[str, Tensor]]:
        """Makes slow weights for parameters that have none, as the parameters are before their first update."""
        params = [(param, group) for group in self.param_groups for param in group["params"]]
        ids = [id(param) for param, _ in params]
        if ids == self._known:
            return {}
        self._known = []  # until the step has succeeded
        return {
            param: {"slow_param": self._new_state(param, group, "slow_param")}
            for param, group in params
            if not self.state.get(param) and (param.is_floating_point() or param.is_complex())
        }

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs a step of the inner optimizer and, every ``k`` of them, one of the slow weights.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What the inner optimizer returned.

        Raises:
            RuntimeError: as the inner optimizer; or a slow weight cannot be updated; or a group has ``master``,
                ``ema`` or ``copies``, which the slow weights would not reach.
        """
        if _runtime.capturing():
            raise RuntimeError("Lookahead counts its steps on the CPU, which a CUDA graph would not repeat")
        refuse_zero("a step of Lookahead")
        for group in self.param_groups:
            for option in ("master", "ema", "copies"):
                if group.get(option) is not None:
                    raise RuntimeError(f"{option}: Lookahead writes its slow weights to the parameters alone")
        fresh = self._first_weights()
        scaling = {key: getattr(self, key) for key in ("grad_scale", "found_inf") if key in self.__dict__}
        for key, value in scaling.items():
            setattr(self.optimizer, key, value)
        try:
            loss = self.optimizer.step(closure) if closure is not None else self.optimizer.step()
        finally:
            for key in scaling:
                delattr(self.optimizer, key)
        found_inf = scaling.get("found_inf")
        if found_inf is not None and found_inf.item() != 0:
            return loss
        self.state.update(fresh)
        if not self._known:
            self._known = [id(param) for group in self.param_groups for param in group["params"]]
        self.steps += 1
        if self.steps % self.k == 0:
            run(self, _runtime.kernels.Step(), 1.0)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Returns one optimizer's state dict: each parameter has its inner states and its slow weights, and each group
        has ``k``, ``alpha`` and ``steps``. So it works where state dicts of torch's optimizers work,
        ``torch.distributed.checkpoint`` included.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        inner, slow = self.optimizer.state_dict(), super(Lookahead, copy.copy(self)).state_dict()["state"]
        if any("slow_param" in entries for entries in inner["state"].values()):
            raise RuntimeError(f"{type(self.optimizer).__name__} has states named 'slow_param' of its own")
        numbers = {key: getattr(self, name) for name, key in _NUMBERS.items()}
        state = {i: {**inner["state"].get(i, {}), **slow.get(i, {})} for i in {**inner["state"], **slow}}
        whole = {**inner, "state": state, "param_groups": [{**group, **numbers} for group in inner["param_groups"]]}
        for after in self._optimizer_state_dict_post_hooks.values():
            whole = after(self, whole) or whole
        return whole

    def _state_keys(self) -> None:
        """Returns None for any states: the inner optimizer may be of any class."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a Lookahead's checkpoint, or the inner optimizer's alone: then the slow weights start anew.

        Raises:
            ValueError: the checkpoint has slow weights, but its groups lack their numbers; or torch refuses it.
        """
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        inner, slow, numbers = _split(state_dict)
        loaded = copy.copy(self)  # without hooks, which see the whole state dict
        loaded.state = defaultdict(dict)
        if numbers:
            super(Lookahead, loaded).load_state_dict(slow)
        self.optimizer.load_state_dict(inner)
        self.state = loaded.state
        self.__dict__.update(numbers or {"steps": 0}, _known=[])
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        keys = ("optimizer", "state", "k", "alpha", "steps", "state_dtype")
        return {key: self.__dict__[key] for key in keys}

    def __setstate__(self, state: dict[str, Any]) -> None:
        groups = ("param_groups", "defaults")  # only the inner optimizer has them
        Optimizer.__setstate__(self, {"_known": [], **{k: v for k, v in state.items() if k not in groups}})
