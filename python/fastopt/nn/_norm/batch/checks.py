"""Explains what is wrong with arguments that the kernels refuse, in torch's words where it has them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..checks import check_input, check_parameter, check_residual
from ..dense import Operands


def check_sizes(input: Tensor) -> None:
    """Refuses a single value per channel: training needs two."""
    shape = input.shape
    if len(shape) > 1 and shape[0] == 1 and math.prod(shape[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {shape}: their variance is zero. "
            "Use larger batches (a DataLoader's drop_last=True leaves out a single last sample), or eval()"
        )


def check_eps(eps: float, training: bool) -> None:
    if training and eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")


def check_running(batch: bool, running_mean: Tensor | None, running_var: Tensor | None) -> None:
    """Refuses running statistics that require a gradient, as torch does, instead of a silent zero. In forward mode
    they are refused only where the result depends on them."""
    forward_mode = not batch and forward_ad._current_level >= 0
    for name, tensor in (("running_mean", running_mean), ("running_var", running_var)):
        if tensor is None:
            continue
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"The function 'batch_norm' is not differentiable with respect to argument '{name}'. This input cannot "
                "have requires_grad True."
            )
        if forward_mode and forward_ad.unpack_dual(tensor).tangent is not None:
            raise RuntimeError(
                "batch_norm is not differentiable wrt running_mean and running_var, they cannot have forward grad "
                f"defined, but {name} has"
            )


def check(batch: bool, operands: Operands) -> None:
    """Raises an error where the arguments are wrong. If it raises none, only their layout is unusual."""
    input, residual, weight, bias, running_mean, running_var = operands
    if input.ndim < 2:
        raise RuntimeError(f"batch_norm: input has to have the shape (N, C, ...), but got {tuple(input.shape)}")
    check_input("batch_norm", input)
    if not batch and (running_mean is None or running_var is None):
        raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
    parameters = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in parameters.items():
        if tensor is None:
            continue
        if tensor.numel() != input.shape[1]:
            raise RuntimeError(f"{name} should contain {input.shape[1]} elements not {tensor.numel()}")
        if tensor.ndim != 1:
            raise RuntimeError(f"{name} should have one dimension, but got the shape {tuple(tensor.shape)}")
        check_parameter("batch_norm", input, name, tensor)
    check_residual("batch_norm", input, residual)
