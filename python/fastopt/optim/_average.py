"""The average of the parameters, as users take it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Model = TypeVar("Model", bound=nn.Module)


def averages(optimizer: Optimizer) -> dict[Tensor, Tensor]:
    """Returns the averages by parameter, or raises an error where there are none."""
    found = {param: state["ema"] for param, state in optimizer.state.items() if "ema" in state}
    if not found:
        raise RuntimeError("there is no average yet: set ema=0.999 or the like, and take a step")
    return found


@contextlib.contextmanager
def swapped(averages_of: Callable[[], dict[Tensor, Tensor]]) -> Iterator[None]:
    """Puts the averages, by parameter, where the parameters are, and the parameters back at the end."""
    with torch.no_grad():
        found = averages_of()
        kept = {param: param.detach().clone() for param in found}
    try:
        with torch.no_grad():
            for param, average in found.items():
                param.copy_(average)
        yield
    finally:
        with torch.no_grad():
            for param, value in kept.items():
                param.copy_(value)


def averaged_model(optimizer: Optimizer, model: Model) -> AveragedModel:
    """Returns torch's AveragedModel with the averages as its parameters."""
    found = averages(optimizer)
    decay = next(group["ema"] for group in optimizer.param_groups if group.get("ema") is not None)
    average: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    result = AveragedModel(model, multi_avg_fn=average)
    with torch.no_grad():
        for own, param in zip(result.module.parameters(), model.parameters(), strict=True):
            own.copy_(found.get(param, param))
        result.n_averaged.fill_(1)
    return result
