"""Runs torch's hooks and profiler range around a step only while they are in use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as torchs

from .._compiler import eager

Step = TypeVar("Step", bound=Callable[..., Any])

# What tells whether hooks or the profiler are in use; where torch does not tell, its wrapper always runs.
_profiler_enabled: Callable[[], bool] = getattr(torch.autograd, "_profiler_enabled", lambda: True)
_somebody: dict[Any, Any] = {None: None}
_global_pre_hooks = getattr(torchs, "_global_optimizer_pre_hooks", _somebody)
_global_post_hooks = getattr(torchs, "_global_optimizer_post_hooks", _somebody)


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """Returns the loss of a step's closure, None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def hooked(func: Step) -> Step:
    """Runs torch's wrapper of hooks and a profiler range around a step only while they are in use, because it costs
    more than a small step itself. A compiled step runs eagerly.
    """
    observed = Optimizer.profile_hook_step(func)

    @eager
    @functools.wraps(func)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_pre_hooks
            or _global_post_hooks
            or _profiler_enabled()
        ):
            return observed(self, *args, **kwargs)
        return func(self, *args, **kwargs)

    step.unhooked = func  # type: ignore[attr-defined]
    step.hooked = True  # type: ignore[attr-defined]  # tells torch not to wrap it once more
    return cast(Step, step)
