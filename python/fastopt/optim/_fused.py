"""What all optimizers share: the step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .. import _runtime
from ._prepare import Preparation

Group = dict[str, Any]
Step = TypeVar("Step", bound=Callable[..., Any])
_is_compiling = torch.compiler.is_compiling
_profiler_enabled = torch.autograd._profiler_enabled  # type: ignore[attr-defined]


class Update(NamedTuple):
    """How a parameter group is updated."""

    rule: str  # the kernel
    states: tuple[str, ...]  # the keys of its states in the optimizer's state, in the rule's order
    counts: bool = True  # whether the state has a 'step'


def _hooked(func: Step) -> Step:
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


class FusedOptimizer(Optimizer):
    """The step of every fastopt optimizer; goes before the torch class in the bases.

    A subclass says what it is by three methods: :meth:`_update`, :meth:`_scalars` and, where its
    weight decay can be decoupled, :meth:`_decoupled`.
    """

    _step_supports_amp_scaling = True  # GradScaler hands its scale over instead of unscaling itself
    _sparse_hint = ""

    def _update(self, group: Group) -> Update:
        raise NotImplementedError

    def _scalars(self, group: Group, t: int) -> dict[str, float]:
        """The rule's scalars for a parameter's ``t``-th update, in double precision.

        Where the update does not count, ``t`` is 1 for a parameter without state and 2 after that.
        """
        raise NotImplementedError

    def _decoupled(self, group: Group) -> bool:
        return False

    def _prologue(self, group: Group, loss_scale: float) -> dict[str, float]:
        weight_decay = float(group["weight_decay"])
        decoupled = self._decoupled(group)
        return {
            "loss_scale": loss_scale,
            "grad_factor": -1.0 if group["maximize"] else 1.0,
            "weight_decay": 0.0 if decoupled else weight_decay,
            "l1": float(group.get("l1", 0.0)),
            "decay": 1.0 - float(group["lr"]) * weight_decay if decoupled else 1.0,
        }

    def _extend(self, **options: Any) -> None:
        """Adds options torch's class does not know to the defaults and to the groups it has made."""
        self.defaults.update(options)
        for group in self.param_groups:
            for key, value in options.items():
                group.setdefault(key, value)
            self._check_group(group)

    def _check_group(self, group: Group) -> None:
        """What torch's constructor does not check."""
        self._check_flags(group)
        if not group.get("l1", 0.0) >= 0:
            raise ValueError(f"Invalid l1 value: {group['l1']}")

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

    @_hooked
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
        for g, group in enumerate(self.param_groups):
            self._check_flags(group)
            update = self._update(group)
            rule, keys, counts = update
            prologue = self._prologue(group, loss_scale)
            scalars = functools.partial(self._scalars, group)
            params = group["params"]
            if not isinstance(params, list):
                params = list(params)
            rest = batch.take(rule, keys, counts, prologue, scalars, params, self.state)
            if rest:
                preparation = preparation or Preparation(self, batch, loss_scale != 1.0)
                for i in rest:
                    preparation.add(params[i], self._name_at(g, i), group, update)
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
        batch.run(torch.get_num_threads())
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
        return torch.zeros_like(param, memory_format=torch.preserve_format)
