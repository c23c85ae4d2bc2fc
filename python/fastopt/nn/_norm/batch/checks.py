"""Explains what is wrong with arguments that the kernels refuse, in torch's words where it has them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .... import _runtime
from ..dense import Operands

HALF = (torch.bfloat16, torch.float16)
ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "hardswish")


def check_activation(name: str | None) -> None:
    if name is not None and name not in ACTIVATIONS:
        known = ", ".join(f'"{known}"' for known in ACTIVATIONS)
        raise ValueError(f"activation has to be None or one of {known}, but got {name!r}")


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


def check_device(input: Tensor) -> None:
    why = _runtime.unsupported_reason(input.device)
    if why:
        raise RuntimeError(f"batch_norm: cannot take an input on {input.device}: {why}")


def check_memory(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None:
            _runtime.refuse_freed(tensor, f"batch_norm: {name}")


def check(batch: bool, operands: Operands) -> None:
    """Raises an error where the arguments are wrong. If it raises none, only their layout is unusual."""
    input, residual, weight, bias, running_mean, running_var = operands
    if input.ndim < 2:
        raise RuntimeError(f"batch_norm: input has to have the shape (N, C, ...), but got {tuple(input.shape)}")
    if input.dtype not in (torch.float32, torch.float64, *HALF):
        raise RuntimeError(f"batch_norm: input has to be float32, float64, bfloat16 or float16, but got {input.dtype}")
    if input.layout != torch.strided:
        raise RuntimeError(f"batch_norm: input has to be strided, but got {input.layout}")
    if not batch and (running_mean is None or running_var is None):
        raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
    parameters = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    types = (torch.float32, input.dtype) if input.dtype in HALF else (input.dtype,)
    for name, tensor in parameters.items():
        if tensor is None:
            continue
        if tensor.numel() != input.shape[1]:
            raise RuntimeError(f"{name} should contain {input.shape[1]} elements not {tensor.numel()}")
        if tensor.ndim != 1:
            raise RuntimeError(f"{name} should have one dimension, but got the shape {tuple(tensor.shape)}")
        if tensor.dtype not in types:
            kinds = " or ".join(map(str, types))
            raise RuntimeError(
                f"batch_norm: {name} has to be {kinds} for an input of {input.dtype}, got {tensor.dtype}"
            )
        if tensor.device != input.device:
            raise RuntimeError(f"batch_norm: {name} is on {tensor.device}, input on {input.device}")
    if residual is None:
        return
    for what in ("shape", "dtype", "device"):
        theirs, ours = getattr(residual, what), getattr(input, what)
        if theirs != ours:
            raise RuntimeError(f"batch_norm: residual has to have the {what} of input, {ours}, but got {theirs}")
