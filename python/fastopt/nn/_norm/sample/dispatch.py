"""The entry from the public functions, which chooses how a call runs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._tracing import exporting, is_traced, jit_tracing, needs_dispatcher
from ..dense import Maybe
from . import autograd, composite, inductor, operators
from .call import Call, Operands
from .checks import check


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
