"""What all optimizers share: the step as users see it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from .. import _runtime
from .._compiler import eager
from ._average import averaged_model, averages, swapped
from ._chosen import Some
from ._declared import Declared
from ._dense import norm_tensor
from ._hooked import evaluated, hooked
from ._load import uncast
from ._norms import grads_of
from ._step import loss_scale_of, run
from ._to_torch import to_torch


class FusedOptimizer(Declared):
    """The step of every fastopt optimizer. It stands before the torch class in the bases.

    A subclass defines the methods of ``Declared``.
    """

    def to_torch(self) -> Optimizer:
        """Returns the torch.optim equivalent: the way back from :func:`fastopt.from_torch`.

        Parameters and states are shared, not copied; states kept in float32 by ``state_dtype`` are rounded
        to their parameter's type.

        Raises:
            TypeError: torch has no such optimizer.
            ValueError: an option is set that torch's does not have.
        """
        return to_torch(self)

    def state_dict(self) -> dict[str, Any]:
        """Returns what torch's does. ``copies`` are not part of it, and stay as they are when it is loaded."""
        state_dict = super().state_dict()
        for group in state_dict["param_groups"]:
            if "copies" in group:
                group["copies"] = None
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads as torch does, but states keep the precision they were saved with, where ``state_dtype`` asks for it.

        torch casts states to their parameter's type, and counters of its fused optimizers to float32. Parameters that
        share a counter get one each.

        Raises:
            ValueError: the states belong to another optimizer. Nothing has changed then.
        """
        with uncast(self):
            super().load_state_dict(state_dict)

    @property
    @eager
    def grad_norm(self) -> Tensor | None:
        """The norm that the last step clipped by, as :func:`fastopt.clip_grad_norm_` returns it, or None.

        ``max_grad_norm=inf`` takes the norm without clipping.
        """
        norm = getattr(self, "_grad_norm", None)
        if norm is None:
            return None
        return norm_tensor(norm, grads_of(self._clipped()))

    @eager
    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the parameters have the values of their averages (``ema``), for evaluation or saving.

        At its end the parameters are as they were. Do not step inside.

        Raises:
            RuntimeError: there is no average yet.

        Examples:
            >>> optimizer = fastopt.AdamW(model.parameters(), lr=1e-3, ema=0.999)
            >>> with optimizer.averaged():
            ...     validate(model)
        """
        return swapped(functools.partial(averages, self))

    def averaged_model(self, model: nn.Module) -> AveragedModel:
        """Returns a ``torch.optim.swa_utils.AveragedModel`` of ``model`` that has the averages as parameters.

        Parameters without an average are copied as they are.

        Raises:
            RuntimeError: there is no average yet.
        """
        return averaged_model(self, model)

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
        loss = evaluated(closure)
        # Taken out while in use: a second thread in the same step gets another one.
        engine_step = self.__dict__.pop("_engine_step", None)
        if type(engine_step) is not _runtime.kernels.Step:
            engine_step = _runtime.kernels.Step()
        try:
            loss_scale = loss_scale_of(self, engine_step)
            if loss_scale is not None:
                self._run(engine_step, loss_scale)
        except BaseException:
            engine_step.clear()
            raise
        self._engine_step = engine_step
        return loss

    def _run(self, engine_step: Any, loss_scale: float, some: Some | None = None) -> None:
        """Updates everything, or some parameters, with gradients divided by ``loss_scale``."""
        run(self, engine_step, loss_scale, some)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler hands its scale and verdict over to the step, instead of unscaling and skipping by itself.

        It does so with ``fused=True``, as in torch; with ``capturable=True``, so that the CPU does not wait for the
        verdict; and for float16 parameters, whose gradients GradScaler refuses to unscale.
        """
        return any(
            self._option(group, "fused")
            or self._option(group, "capturable")
            or any(p.dtype == torch.float16 for p in group["params"])
            for group in self.param_groups
        )

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        """Ignores what torch's constructors set for fused=True: the groups know it."""
