"""What all optimizers share: the step."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, TypeVar, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .. import _runtime
from ._load import uncast
from ._prepare import Preparation

Group = dict[str, Any]
Step = TypeVar("Step", bound=Callable[..., Any])
_is_compiling = torch.compiler.is_compiling
_profiler_enabled = torch.autograd._profiler_enabled  # type: ignore[attr-defined]


class Update(NamedTuple):
    """How parameters are updated."""

    rule: str  # the kernel
    states: tuple[str, ...]  # the keys of its states in the optimizer's state, in the rule's order
    counts: bool = True  # whether the state has a 'step'
    carried: tuple[str, ...] = ()  # the keys of numbers that go from step to step, 0-dim tensors
    factored: bool = False  # whether the states are rows and columns of matrices
    reads_grad: bool = True


class Part(NamedTuple):
    """Parameters of a group that are updated alike."""

    update: Update
    scalars: Callable[..., dict[str, float]]
    indices: list[int] | None = None  # in the group; None: all


class Common(TypedDict, total=False):
    """What every optimizer takes, keyword-only; each may also be set per parameter group."""

    l1: float
    """L1 penalty, ``l1 * sign(p)`` added to the gradient (default: 0)."""
    max_grad_norm: float | None
    """Gradients enter the update scaled by ``max_grad_norm / (norm + 1e-6)`` where that is below 1, as
    after ``clip_grad_norm_``; ``norm`` is that of all gradients of the groups that set this option.
    ``p.grad`` is left as it is (default: None, off)."""
    max_grad_value: float | None
    """Gradients enter the update clamped to plus or minus this, after ``max_grad_norm`` (default: None)."""
    state_dtype: torch.dtype | None
    """``torch.float32`` keeps the states of bfloat16 and float16 parameters in float32, in checkpoints too
    (default: None, the parameter's type)."""


_COMMON = Common(l1=0, max_grad_norm=None, max_grad_value=None, state_dtype=None)


def hooked(func: Step) -> Step:
    """torch wraps every step in hooks and a profiler range, which costs 8 us, more than a small step
    itself: here its wrapper runs only while somebody hooks or profiles. A compiled step runs eagerly.
    """
    observed = Optimizer.profile_hook_step(func)
    eager = torch._disable_dynamo(observed)  # type: ignore[attr-defined]

    @functools.wraps(func)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_compiling():
            return eager(self, *args, **kwargs)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or _profiler_enabled()
        ):
            return observed(self, *args, **kwargs)
        return func(self, *args, **kwargs)

    step.hooked = True  # type: ignore[attr-defined]  # tells torch not to wrap it once more
    return cast(Step, step)


def torch_class(cls: type[Optimizer]) -> Any:
    """The class of torch.optim that one of ours stands for, or None."""
    found = [base for base in cls.__mro__ if base.__module__.startswith("torch.optim") and base is not Optimizer]
    return found[0] if found and cls not in found else None


class FusedOptimizer(Optimizer):
    """The step of every fastopt optimizer; goes before the torch class in the bases.

    A subclass says what it is by a few methods: :meth:`_update`, :meth:`_scalars` and, where they are not
    the usual, :meth:`_decoupled`, :meth:`_sparse`, :meth:`_new_state` and :meth:`_first_value`.
    """

    _step_supports_amp_scaling = True  # GradScaler hands its scale over instead of unscaling itself
    _sparse_hint = ""
    _carried: tuple[str, ...] = ()  # the keys of states that are numbers, beside 'step'
    _grad_norm: float | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Shows the common options in the signature, where a class takes them as ``**common``."""
        super().__init_subclass__(**kwargs)
        own = inspect.signature(cls.__init__).parameters
        if "common" in own and "__init__" in cls.__dict__:
            keyword_only = inspect.Parameter.KEYWORD_ONLY
            shown = [p for p in own.values() if p.name not in ("self", "common")]
            shown += [inspect.Parameter(key, keyword_only, default=value) for key, value in _COMMON.items()]
            cls.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]

    def _update(self, group: Group) -> Update:
        raise NotImplementedError

    def _scalars(self, group: Group, t: int, *carried: float) -> dict[str, float]:
        """The rule's scalars for a parameter's ``t``-th update, and the next values of those it carries,
        in double precision.

        Where the update does not count, ``t`` is 1 for a parameter without state and 2 after that.
        """
        raise NotImplementedError

    def to_torch(self) -> Optimizer:
        """The torch.optim equivalent: the way back from :func:`fastopt.from_torch`.

        Parameters and states are shared, not copied; states kept in float32 by ``state_dtype`` are rounded
        to their parameter's type.

        Raises:
            TypeError: torch has no such optimizer.
            ValueError: an option is set that torch's does not have.
        """
        from .convert import to_torch

        return to_torch(self)

    def _parts(self, group: Group) -> list[Part]:
        return [Part(self._update(group), functools.partial(self._scalars, group))]

    def _decoupled(self, group: Group) -> bool:
        return False

    def _sparse(self, group: Group) -> str | None:
        """Sparse gradients: "rows" updates what they touch, "dense" everything; None is an error."""
        return None

    def _max_norm(self, group: Group) -> float | None:
        max_grad_norm = group.get("max_grad_norm")
        return None if max_grad_norm is None else float(max_grad_norm)

    def _prologue(self, group: Group, loss_scale: float) -> dict[str, float]:
        weight_decay = float(group.get("weight_decay", 0.0))
        decoupled = self._decoupled(group)
        max_grad_value = group.get("max_grad_value")
        return {
            "loss_scale": loss_scale,
            "grad_factor": -1.0 if group.get("maximize") else 1.0,
            "max_grad_value": math.inf if max_grad_value is None else float(max_grad_value),
            "weight_decay": 0.0 if decoupled else weight_decay,
            "l1": float(group.get("l1", 0.0)),
            "decay": 1.0 - float(group["lr"]) * weight_decay if decoupled else 1.0,
        }

    def _extend(self, common: Common, **own: Any) -> None:
        """Adds options torch's class does not know to the defaults and to the groups it has made."""
        for key in common:
            if key not in _COMMON:
                raise TypeError(f"{type(self).__name__}.__init__() got an unexpected keyword argument '{key}'")
        options = {**own, **_COMMON, **common}
        self.defaults.update(options)
        for group in self.param_groups:
            for key, value in options.items():
                group.setdefault(key, value)
            self._check_group(group)

    def _check_group(self, group: Group) -> None:
        """What torch's constructor does not check."""
        self._check_flags(group)
        for option in ("l1", "max_grad_norm", "max_grad_value"):
            value = group.get(option)
            if value is not None and not value >= 0:
                raise ValueError(f"Invalid {option} value: {value}")
        if group.get("state_dtype") not in (None, torch.float32):
            raise ValueError(f"Invalid state_dtype: {group['state_dtype']}, not None or torch.float32")

    def _check_flags(self, group: Group) -> None:
        """At every step: groups may be edited, and a flag is never ignored."""
        if group.get("capturable") or group.get("differentiable"):
            flag = "capturable" if group.get("capturable") else "differentiable"
            raise RuntimeError(f"fastopt.{type(self).__name__} does not support {flag}=True")

    def add_param_group(self, param_group: Group) -> None:
        if isinstance(param_group, dict):  # torch has the error for what is not
            self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # What a checkpoint of torch's optimizer does not have stays as this optimizer was built.
        defaults = state.get("defaults", self.__dict__.get("defaults", {}))
        for group in state["param_groups"]:
            self._check_flags(group)
            for key, value in defaults.items():
                group.setdefault(key, value)
        super().__setstate__(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but states keep the precision they were saved with, where ``state_dtype`` asks for it.

        torch casts states to their parameter's type, and counters of its fused optimizers to float32.
        """
        with uncast(self):
            super().load_state_dict(state_dict)

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm the last step clipped by, as :func:`fastopt.clip_grad_norm_` returns it, or None."""
        return None if self._grad_norm is None else torch.tensor(self._grad_norm, dtype=torch.float32)

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs a single optimization step.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            RuntimeError: a parameter, gradient or state cannot be updated; the message names it,
                and nothing has been written.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        # GradScaler's contract: with an inf among the gradients, nothing happens at all.
        loss_scale = 1.0
        if "found_inf" in self.__dict__ or "grad_scale" in self.__dict__:
            found_inf = getattr(self, "found_inf", None)
            if found_inf is not None and found_inf.item() != 0:
                return loss
            grad_scale = getattr(self, "grad_scale", None)
            loss_scale = 1.0 if grad_scale is None else float(grad_scale)

        # Taken out while in use: a second thread in the same step gets a batch of its own.
        batch = self.__dict__.pop("_batch", None)
        if type(batch) is not _runtime.Batch:
            batch = _runtime.Batch()
        try:
            self._run(batch, loss_scale)
        except BaseException:
            batch.clear()
            raise
        self._batch = batch
        return loss

    def _run(self, batch: Any, loss_scale: float) -> None:
        preparation = None
        clips = False
        for g, group in enumerate(self.param_groups):
            self._check_flags(group)
            prologue = self._prologue(group, loss_scale)
            max_grad_norm = self._max_norm(group)
            clips |= max_grad_norm is not None
            max_norm = -1.0 if max_grad_norm is None else max_grad_norm
            params = group["params"]
            if not isinstance(params, list):
                params = list(params)
            for update, scalars, indices in self._parts(group):
                chosen = params if indices is None else [params[i] for i in indices]
                rest = batch.take(update, prologue, max_norm, scalars, chosen, self.state)
                if rest:
                    preparation = preparation or Preparation(self, batch, loss_scale)
                    for i in rest:
                        name = self._name_at(g, i if indices is None else indices[i])
                        preparation.add(i, chosen[i], name, group, update)
        if preparation is not None:
            preparation.check_views()

        conflict = batch.settle()
        if conflict is not None:
            one, role, other, other_role = conflict
            raise RuntimeError(
                f"the {role} of {self._name(one)} shares memory with the {other_role} of {self._name(other)}"
            )
        if preparation is not None:
            preparation.commit()
        threads = torch.get_num_threads()
        if clips:
            self._grad_norm = math.sqrt(batch.measure("squares", 2.0, threads)) / loss_scale
            batch.clip(self._grad_norm)
        batch.run(threads)
        if preparation is not None:
            preparation.write_back()

    def _name(self, param: Tensor) -> str:
        """How an error message calls a parameter."""
        for g, group in enumerate(self.param_groups):
            for i, candidate in enumerate(group["params"]):
                if candidate is param:
                    return self._name_at(g, i)
        return "a parameter"

    def _name_at(self, g: int, i: int) -> str:
        group = self.param_groups[g]
        if names := group.get("param_names"):
            return f"parameter '{names[i]}'"
        return f"parameter {i} of group {g} (shape {tuple(group['params'][i].shape)})"

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        """A state before its parameter's first update."""
        return torch.zeros_like(param, dtype=self._state_type(param, group), memory_format=torch.preserve_format)

    def _first_value(self, group: Group, key: str) -> float:
        """A carried scalar before its parameter's first update."""
        raise NotImplementedError

    def _state_shape(self, shape: torch.Size, key: str) -> torch.Size:
        return shape

    def _state_type(self, param: Tensor, group: Group) -> torch.dtype:
        wanted = group.get("state_dtype")
        return param.dtype if wanted is None else torch.promote_types(param.dtype, wanted)
