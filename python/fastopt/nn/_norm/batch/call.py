"""Applies the kernels of batch normalization to tensors of any layout, without autograd."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .... import _runtime
from ...._compat import increment_version
from ..checks import check_device, check_memory
from ..dense import Gradients, Maybe, Operands, Wanted, channels, like, like_or_none, parameter, put_back
from .checks import check


class Call(NamedTuple):
    """The arguments of a call except its tensors.

    Attributes:
        batch: whether the statistics are those of the input; otherwise they are the running ones.
        group: the name of the group of processes that share statistics, which ``SyncCall`` runs; "" for this process
            alone.
    """

    batch: bool
    momentum: float
    eps: float
    activation: str
    negative_slope: float
    group: str = ""

    @property
    def function(self) -> str:
        return "batch_norm"

    @property
    def is_operator(self) -> bool:
        return False

    def forward(self, operands: Operands) -> tuple[Tensor, Tensor]:
        """Returns the result and the statistics: float64, (2, C), mean and ``1 / sqrt(variance + eps)``. Training
        writes the running statistics."""
        input, residual, weight, bias, running_mean, running_var = operands
        if input.dtype == torch.float64:  # the kernels would take float32 parameters, which torch and compilers refuse
            check(self.batch, operands)
        out = torch.empty_like(input)
        statistics = input.new_empty(2, channels(input), dtype=torch.float64)
        options = (*self[:5], torch.get_num_threads())
        run = _runtime.kernels.batch_norm
        if not run(out, *operands, statistics, *options):
            check(self.batch, operands)
            check_device("batch_norm", input)
            check_memory("batch_norm", input=input, residual=residual, weight=weight, bias=bias)
            check_memory("batch_norm", running_mean=running_mean, running_var=running_var)
            dense = like(input, input)
            running = (parameter(running_mean), parameter(running_var))
            parameters = (parameter(weight), parameter(bias))
            residual = like_or_none(dense, residual)
            if not run(out.as_subclass(Tensor), dense, residual, *parameters, *running, statistics, *options):
                raise RuntimeError(f"batch_norm: cannot take an input of type {input.dtype} on {input.device}")
            if self.batch:
                put_back((running_mean, running_var), running)
        if self.batch:
            if running_mean is not None:
                increment_version([running_mean] if running_var is None else [running_mean, running_var])
            elif running_var is not None:
                increment_version([running_var])
        return out, statistics

    def backward(
        self,
        wants: Wanted,
        grad: Tensor,
        input: Tensor,
        residual: Maybe,
        weight: Maybe,
        bias: Maybe,
        statistics: Tensor,
    ) -> Gradients:
        """Returns the wanted gradients, and None for the others."""
        wants_input, wants_residual, wants_weight, wants_bias = wants
        passes = self.activation == "identity"
        grad_input = torch.empty_like(input) if wants_input else None
        grad_residual = torch.empty_like(input) if wants_residual and not passes else None
        grad_weight = torch.empty_like(weight) if wants_weight and weight is not None else None
        grad_bias = torch.empty_like(bias) if wants_bias and bias is not None else None
        if wants_input or wants_weight or wants_bias or grad_residual is not None:
            options = (self.batch, self.activation, self.negative_slope, torch.get_num_threads())
            run = _runtime.kernels.batch_norm_backward
            results = (grad_input, grad_residual, grad_weight, grad_bias)
            if not run(*results, grad, input, residual, weight, bias, statistics, *options):
                check_memory("batch_norm", grad=grad, input=input, residual=residual, weight=weight, bias=bias)
                grad_weight, grad_bias = parameter(grad_weight), parameter(grad_bias)
                results = (grad_input, grad_residual, grad_weight, grad_bias)
                dense = like(input, input)
                operands = (like(dense, grad), dense, like_or_none(dense, residual))
                parameters = (parameter(weight), parameter(bias))
                if not run(*results, *operands, *parameters, statistics, *options):
                    raise RuntimeError(f"batch_norm: cannot take a gradient of type {grad.dtype} on {grad.device}")
        return grad_input, grad if wants_residual and passes else grad_residual, grad_weight, grad_bias
