"""What both Schedule-Free optimizers share: the numbers of a group, and the change between training and evaluation."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from .. import _runtime
from .._compiler import eager
from ._average import swapped
from ._checks import check_lr, check_range
from ._fused import FusedOptimizer
from ._master import exact_value, set_value
from ._program import Scalars
from ._sharded import local, refuse_zero
from ._update import Group, Part

# Of a group, under the package's keys: steps taken, the sum of their weights, the largest and the last learning rate.
# Parameters begin as their own average, so training can begin at once.
_NUMBERS = {"k": 0, "weight_sum": 0.0, "lr_max": -1.0, "scheduled_lr": 0.0, "train_mode": True}


class ScheduleFree(FusedOptimizer):
    """The parameter holds y, or x after :meth:`eval`. A subclass says how much of x is in y (:meth:`_beta`)."""

    _more_group_keys = frozenset(_NUMBERS)

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, {**defaults, **_NUMBERS})

    def _beta(self, group: Group) -> float:
        raise NotImplementedError

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        check_lr(group["lr"])
        for key in ("weight_decay", "warmup_steps", "r", "weight_lr_power"):
            check_range(f"{key} value", group[key])

    def _parts(self, group: Group) -> list[Part]:
        name = type(self).__name__
        if not group["train_mode"]:
            raise RuntimeError(f"fastopt.{name}: the parameters are the averages of eval(); call train() before a step")
        if _runtime.capturing():
            raise RuntimeError(f"fastopt.{name}: a CUDA graph would repeat this step with the same numbers")
        refuse_zero(f"a step of {name}", "use another optimizer")
        return super()._parts(group)

    def _new_state(self, param: Tensor, group: Group, key: str) -> Tensor:
        state = super()._new_state(param, group, key)
        if key == "z":
            local(state).copy_(exact_value(param, self.state.get(param) or {}))
        return state

    def _why_bold(self, group: Group) -> str | None:
        return "moves its parameter between two sequences, one of which takes the steps"

    def _next(self, group: Group) -> tuple[dict[str, Any], float]:
        """The numbers of a group after the step that it takes next, and the new z's weight in x in that step."""
        k = group["k"] + 1
        warm_up = min(k / group["warmup_steps"], 1.0) if group["warmup_steps"] else 1.0
        lr = float(group["lr"]) * warm_up
        lr_max = max(lr, group["lr_max"])
        weight = k ** group["r"] * lr_max ** group["weight_lr_power"]
        weight_sum = group["weight_sum"] + weight
        mix = weight / weight_sum if weight_sum else 0.0  # all learning rates were 0
        return {"k": k, "weight_sum": weight_sum, "lr_max": lr_max, "scheduled_lr": lr}, mix

    def _moving(self, group: Group) -> Scalars:
        """The scalars of ``move_schedule_free``."""
        numbers, mix = self._next(group)
        lr = numbers["scheduled_lr"]
        return {"mix": mix, "y_step": lr * (self._beta(group) * (1.0 - mix) - 1.0), "lr": lr}

    def _advance(self) -> None:
        for group in self.param_groups:
            group.update(self._next(group)[0])

    def _refuse_parts_alone(self) -> None:
        if self._has_partition:
            raise RuntimeError(
                f"fastopt.{type(self).__name__}: under ZeroRedundancyOptimizer each process would change its own "
                "parameters alone"
            )

    def _mixed(self, param: Tensor, weight: float) -> Tensor:
        """A point on the line from the parameter to z, at least in float32."""
        state = self.state[param]
        value = exact_value(param, state)
        return torch.lerp(value, local(state["z"]).to(value), weight)

    def _move(self, group: Group, weight: float) -> None:
        self._refuse_parts_alone()
        copies = group.get("copies") or [None] * len(group["params"])
        with torch.no_grad():
            for param, copy in zip(group["params"], copies, strict=True):
                if "z" in self.state.get(param, ()):
                    set_value(param, self.state[param], self._mixed(param, weight))
                    if copy is not None:
                        copy.copy_(param)

    def _averages(self) -> dict[Tensor, Tensor]:
        self._refuse_parts_alone()
        return {
            local(param.detach()): self._mixed(param, 1.0 - 1.0 / self._beta(group))
            for group in self.param_groups
            for param in group["params"]
            if group["train_mode"] and "z" in self.state.get(param, ())
        }

    @eager
    def train(self) -> None:
        """Makes the parameters those to train, y, again. Without effect where they are.

        The way to x and back is not exact: each value is rounded twice, in float32 where it has a ``master``.
        """
        for group in self.param_groups:
            if not group["train_mode"]:
                self._move(group, 1.0 - self._beta(group))
                group["train_mode"] = True

    @eager
    def eval(self) -> None:
        """Makes the parameters the averages, x, for evaluation or saving. Without effect where they are.

        ``copies`` of them follow. Running statistics of BatchNorm stay those of y: let the model see some batches in
        training mode after this. A step needs :meth:`train` first.
        """
        for group in self.param_groups:
            if group["train_mode"]:
                self._move(group, 1.0 - 1.0 / self._beta(group))
                group["train_mode"] = False

    @eager
    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the parameters are the averages x, or those of ``ema`` if it is set.

        At its end the parameters are exactly as they were, which :meth:`eval` and :meth:`train` do not promise. It
        needs memory for a copy of them. Do not step inside.

        Raises:
            RuntimeError: ``ema`` is set, and there is no average of it yet.
        """
        if any(group.get("ema") is not None for group in self.param_groups):
            return super().averaged()
        return swapped(self._averages)
