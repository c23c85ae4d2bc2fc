"""Batch normalization as operators of torch's dispatcher: for ``torch.compile``, export, ``torch.func``, dispatch modes
and tensor subclasses. They write nothing: new running statistics are results. Their gradients are in ``autograd``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._tracing import below_autograd, library
from ..dense import Gradients, Maybe, Operands, Wanted
from ..operators import Results, by_kernels, only_wanted, register_vmap, without_none
from .call import Call
from .sync import for_kernels

_OPTIONS = "bool batch, float momentum, float eps, str activation, float negative_slope, str group"
library.define(
    "batch_norm(Tensor input, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? running_mean,"
    f" Tensor? running_var, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)"
)
library.define(
    "batch_norm_backward(bool[4] wants, Tensor grad, Tensor input, Tensor? residual, Tensor? weight, Tensor? bias,"
    f" Tensor statistics, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)"
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
            return batch_norm(self, operands)

    def backward(self, wants: Wanted, *tensors: Any) -> Gradients:
        with below_autograd():
            return batch_norm_backward(self, wants, *tensors)


def batch_norm(call: Call, operands: Operands) -> Results:
    """Runs ``call`` through the dispatcher. Returns result, statistics, new running mean and variance."""
    return _ops.batch_norm(*operands, *call)


def told(*arguments: Any) -> tuple[Operands, Call]:
    """Returns what :func:`batch_norm` gave to the dispatcher."""
    return arguments[:6], Call(*arguments[6:])


def batch_norm_backward(call: Call, wants: Wanted, *tensors: Maybe) -> Gradients:
    return only_wanted(wants, _ops.batch_norm_backward(wants, *tensors, *call))


@by_kernels("batch_norm")
def _(*arguments: Any) -> Results:
    (input, residual, weight, bias, *running), call = told(*arguments)
    mean, var = (tensor.clone() if call.batch and tensor is not None else tensor for tensor in running)
    out, statistics = for_kernels(call).forward((input, residual, weight, bias, mean, var))
    new = (mean, var) if call.batch else (None, None)
    return out, statistics, *without_none(new, input)


@by_kernels("batch_norm_backward")
def _(
    wants: list[bool],
    grad: Tensor,
    input: Tensor,
    residual: Maybe,
    weight: Maybe,
    bias: Maybe,
    statistics: Tensor,
    *options: Any,
) -> Gradients:
    call = for_kernels(Call(*options))
    found = call.backward(tuple(wants), grad, input, residual, weight, bias, statistics)
    # An operator must not return one of its arguments.
    return without_none(tuple(g.clone() if g is grad else g for g in found), input)


# Results without values, for tools that only need shapes.


@torch.library.register_fake("fastopt::batch_norm")
def _(*arguments: Any) -> Results:
    (input, _, _, _, *running), call = told(*arguments)
    statistics = input.new_empty((3 if call.group else 2, input.shape[1]), dtype=torch.float64)
    mean, var = (
        input.new_empty(0) if tensor is None or not call.batch else torch.empty_like(tensor) for tensor in running
    )
    return torch.empty_like(input), statistics, mean, var


@torch.library.register_fake("fastopt::batch_norm_backward")
def _(
    wants: list[bool],
    grad: Tensor,
    input: Tensor,
    residual: Maybe,
    weight: Maybe,
    bias: Maybe,
    statistics: Tensor,
    *options: Any,
) -> Results:
    of_residual = grad if Call(*options).activation == "identity" else input
    found = [
        torch.empty_like(tensor) if want and tensor is not None else input.new_empty(0)
        for tensor, want in zip((input, of_residual, weight, bias), wants, strict=True)
    ]
    return tuple(found)


register_vmap("batch_norm")
register_vmap("batch_norm_backward")
