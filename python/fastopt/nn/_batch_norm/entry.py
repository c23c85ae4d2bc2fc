"""The way in from the public functions, and which way a call takes."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from .._dispatch import any_foreign, jit_tracing, observed
from . import autograd, operators
from .call import Call
from .checks import check
from .dense import Maybe

Tensors: TypeAlias = tuple[
    Tensor, Maybe, Maybe, Maybe, Maybe, Maybe
]  # input, residual, weight, bias, running mean and variance


def batch_norm(call: Call, tensors: Tensors) -> Tensor:
    """Applies ``call`` in the cheapest way that the tensors allow."""
    if not (observed() or any_foreign(tensors)):
        return autograd.apply(call, *tensors)
    if not jit_tracing():
        check(call.batch, *tensors)
    out, _, *new = operators.batch_norm(call, *tensors)
    if call.batch:
        for running, now in zip(tensors[4:], new, strict=True):
            if running is not None:  # detached, since a program with no_grad() in it cannot always be exported
                running.detach().copy_(now)
    return out
