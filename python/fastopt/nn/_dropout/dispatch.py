"""The entry from the public functions, which chooses how a call runs and where its seed comes from."""

from __future__ import annotations

import torch
from torch import Tensor

from .._tracing import is_traced, jit_tracing, needs_dispatcher
from . import autograd, mask, operators
from .call import Call, check_type
from .operators import OperatorCall


def _seed(input: Tensor, p: float, seed: int | None, generator: torch.Generator | None) -> int | Tensor:
    """Returns the given seed or draws one. None is drawn where the mask is trivial: ``p`` is 0 or 1."""
    if seed is None:
        return mask.draw_seed(input, generator) if 0 < p < 1 else 0
    return int(seed)


def _operator_call(
    rule: str, input: Tensor, p: float, dims: int, seed: int | None, offset: int, generator: torch.Generator | None
) -> OperatorCall:
    if seed is None and 0 < p < 1:
        if jit_tracing():
            raise RuntimeError(f"{rule}: torch.jit.trace would freeze the mask; use torch.export, eval() or a seed")
        drawn = operators.draw_seed(input, generator)
    else:
        drawn = operators.as_tensor(int(seed or 0), operators.place_of_seed(input.device))
    return OperatorCall(rule, p, dims, drawn, mask.signed(int(offset)))


def drop(
    rule: str,
    input: Tensor,
    p: float,
    dims: int,
    inplace: bool,
    seed: int | None,
    offset: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Applies a rule of one tensor in the cheapest way that the tensor allows; draws a seed where none is given.

    The mask has the first ``dims`` dimensions of ``input``. All arguments have been checked, and ``p`` is not 0.
    """
    if rule != "dropout" or input.is_nested:
        check_type(rule, input)
    if is_traced() or needs_dispatcher(input):
        if not jit_tracing() and input.numel() == 0:
            return input
        result = operators.dropout(_operator_call(rule, input, p, dims, seed, offset, generator), input)
        return input.copy_(result) if inplace else result
    if input.numel() == 0:
        return input
    call = Call(rule, p, dims, _seed(input, p, seed, generator), offset)
    return autograd.apply_in_place(call, input) if inplace else autograd.apply(call, input)


def drop_and_add(
    rule: str,
    input: Tensor,
    residual: Tensor,
    bias: Tensor | None,
    p: float,
    seed: int | None,
    offset: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Does the same for a rule with a residual; ``p`` may be 0."""
    dims = input.dim()
    if not jit_tracing() and input.numel() == 0:
        p = 0.0
    if is_traced() or needs_dispatcher(input, residual, bias):
        call = _operator_call(rule, input, p, dims, seed, offset, generator)
        return operators.dropout(call, input, residual, bias)
    return autograd.apply(Call(rule, p, dims, _seed(input, p, seed, generator), offset), input, residual, bias)
