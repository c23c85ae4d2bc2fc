"""The way in from the public functions, and which way a call takes."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from .._dispatch import exporting, foreign, jit_tracing, observed
from . import autograd, composite, inductor, operators
from .call import Call
from .checks import check
from .dense import Maybe, put_back
from .sync import for_kernels

Tensors: TypeAlias = tuple[
    Tensor, Maybe, Maybe, Maybe, Maybe, Maybe
]  # input, residual, weight, bias, running mean and variance


def batch_norm(call: Call, tensors: Tensors) -> Tensor:
    """Applies ``call`` in the cheapest way that the tensors allow."""
    if not (observed() or foreign(*tensors)):
        return autograd.apply(for_kernels(call), *tensors)
    if not jit_tracing():
        check(call.batch, *tensors)
    if not call.batch and exporting():
        return composite.by_torch(call, *tensors)
    if torch.compiler.is_compiling():
        inductor.prepare()
    out, _, *new = operators.batch_norm(call, *tensors)
    if call.batch:
        put_back(tensors[4:], (new[0], new[1]))
    return out
