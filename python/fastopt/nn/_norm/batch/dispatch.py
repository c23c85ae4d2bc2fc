"""The entry from the public functions, which chooses how a call runs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._tracing import exporting, is_traced, jit_tracing, needs_dispatcher
from ..dense import Operands, put_back
from . import autograd, composite, inductor, operators
from .call import Call
from .checks import check
from .sync import for_kernels


def batch_norm(call: Call, operands: Operands) -> Tensor:
    """Applies ``call`` in the cheapest way that the tensors allow."""
    if not (is_traced() or needs_dispatcher(*operands)):
        return autograd.apply(for_kernels(call), operands)
    if not jit_tracing():
        check(call.batch, operands)
    if not call.batch and exporting():
        return composite.by_torch(call, operands)
    if torch.compiler.is_compiling():
        inductor.prepare()
    out, _, *new = operators.batch_norm(call, operands)
    if call.batch:
        put_back(operands[4:], (new[0], new[1]))
    return out
