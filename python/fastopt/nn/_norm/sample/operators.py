"""The norms of single samples as operators of torch's dispatcher: for ``torch.compile``, export, ``torch.func``,
dispatch modes and tensor subclasses. Their gradients are in ``autograd``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._tracing import below_autograd, library
from ..dense import Gradients, Maybe, Wanted
from ..operators import Results, by_kernels, only_wanted, register_vmap, without_none
from .call import Call, Operands

_OPTIONS = "str kind, SymInt size, float eps, str activation, float negative_slope"
library.define(
    f"norm(Tensor input, Tensor? residual, Tensor? weight, Tensor? bias, {_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)
library.define(
    "norm_backward(bool[3] wants, Tensor grad, Tensor? grad_sum, Tensor input, Tensor? weight, Tensor? bias,"
    f" Tensor statistics, {_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)
_ops = torch.ops.fastopt


class OperatorCall(Call):
    """A ``Call`` whose kernels are operators."""

    __slots__ = ()

    @property
    def is_operator(self) -> bool:
        return True

    def forward(self, operands: Operands) -> Any:
        with below_autograd():
            return norm(self, operands)

    def backward(self, wants: Wanted, *tensors: Any) -> Gradients:
        with below_autograd():
            return norm_backward(self, wants, *tensors)


def norm(call: Call, operands: Operands) -> Results:
    """Runs ``call`` through the dispatcher. Returns result, sum (empty where there is no residual) and statistics."""
    return _ops.norm(*operands, *call)


def norm_backward(call: Call, wants: Wanted, *tensors: Maybe) -> Gradients:
    return only_wanted(wants, _ops.norm_backward(wants, *tensors, *call))


@by_kernels("norm")
def _(input: Tensor, residual: Maybe, weight: Maybe, bias: Maybe, *options: Any) -> Results:
    return without_none(Call(*options).forward((input, residual, weight, bias)), input)


@by_kernels("norm_backward")
def _(wants: list[bool], grad: Tensor, grad_sum: Maybe, input: Tensor, *others: Any) -> Results:
    weight, bias, statistics, *options = others
    found = Call(*options).backward(tuple(wants), grad, grad_sum, input, weight, bias, statistics)
    return without_none(found, input)


# Results without values, for tools that only need shapes.


@torch.library.register_fake("fastopt::norm")
def _(input: Tensor, residual: Maybe, weight: Maybe, bias: Maybe, *options: Any) -> Results:
    call = Call(*options)
    out = torch.empty_like(call.prepared(input))
    total = input.new_empty(0) if residual is None else torch.empty_like(out)
    return out, total, input.new_empty((2, call.sets(input)), dtype=torch.float64)


@torch.library.register_fake("fastopt::norm_backward")
def _(wants: list[bool], grad: Tensor, grad_sum: Maybe, input: Tensor, *others: Any) -> Results:
    weight, bias, _, *options = others
    tensors = (Call(*options).prepared(input), weight, bias)
    found = (None if t is None or not want else torch.empty_like(t) for t, want in zip(tensors, wants, strict=True))
    return without_none(tuple(found), input)


register_vmap("norm")
register_vmap("norm_backward")
