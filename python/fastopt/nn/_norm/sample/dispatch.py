"""The entry from the public functions, which chooses how a call runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._tracing import exporting, is_traced, jit_tracing, needs_dispatcher
from ..activations import check_activation
from ..dense import Maybe
from . import autograd, composite, inductor, operators
from .call import Call, Operands
from .checks import check, check_return_sum


def normalized(
    function: str,
    kind: str,
    size: int,
    eps: float,
    operands: Operands,
    return_sum: bool,
    activation: str | None,
    negative_slope: float,
) -> Any:
    """Does what the public functions do after their own checks. Returns the result, or the result and the sum."""
    if return_sum:
        check_return_sum(function, operands[1])
    if activation is not None:
        check_activation(activation)
    found = norm(Call(kind, size, eps, activation or "identity", negative_slope), operands)
    return found if return_sum else found[0]


def norm(call: Call, operands: Operands) -> tuple[Tensor, Maybe]:
    """Applies ``call`` in the cheapest way that the tensors allow. Returns result and sum."""
    if not (is_traced() or needs_dispatcher(*operands)):
        return autograd.apply(call, operands)
    if not jit_tracing():
        check(call, operands)
    if exporting():
        return composite.by_torch(call, operands)
    return _by_operators(call, operands)[:2]


def norm_and_statistics(call: Call, operands: Operands) -> tuple[Tensor, Maybe, Tensor]:
    """The same, with the statistics of each set."""
    if not (is_traced() or needs_dispatcher(*operands)):
        return autograd.apply_and_tell(call, operands)
    if not jit_tracing():
        check(call, operands)
    return _by_operators(call, operands)


def _by_operators(call: Call, operands: Operands) -> tuple[Tensor, Maybe, Tensor]:
    if torch.compiler.is_compiling():
        inductor.prepare()
    out, total, statistics = operators.norm(call, operands)
    return out, None if operands[1] is None else total, statistics
