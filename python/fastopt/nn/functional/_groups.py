"""Normalization of groups of channels, and of single channels, of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .._norm.activations import FUNCTIONS, check_activation
from .._norm.autocast import widened
from .._norm.sample import dispatch
from .._norm.sample.call import Call
from .._norm.sample.checks import check_groups, check_instances, check_return_sum
from .._norm.sample.running import update
from .._tracing import exporting, jit_tracing
from ._batch_norm import batch_norm
from ._overrides import options_of


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    return_sum: bool = False,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Any:
    """Normalizes groups of a sample's channels to mean 0 and variance 1, in one pass forward and one backward:
    ``activation((h - mean) / sqrt(var + eps) * weight + bias)``, where ``h = input + residual``.

    Wu and He, "Group Normalization", 2018. A drop-in for ``torch.nn.functional.group_norm``. The residual is added
    first, as in :func:`rms_norm`.

    Args:
        input: (N, C, ...), any strides; float32, float64, bfloat16 or float16.
        num_groups: the number of groups, which divides C.
        weight, bias: (C,), or None for 1 and 0; they have the type of ``input`` or, where that is a half type, float32.
        eps: added to the variance.
        residual, return_sum, activation, negative_slope: see :func:`rms_norm`.

    Returns:
        A tensor of the shape and type of ``input``, channels-last where ``input`` is, and contiguous otherwise; with
        ``return_sum`` the pair ``(result, h)``.

    Raises:
        ValueError: a group has a single value, ``return_sum`` without a residual, or there is no such ``activation``.
        RuntimeError: an argument has the wrong shape, type or device.
    """
    tensors = (input, residual, weight, bias)
    if has_torch_function_variadic(*tensors):
        options = options_of(residual, return_sum, activation, negative_slope)
        more: dict[str, Any] = {"weight": weight, "bias": bias, "eps": eps, **options}
        return handle_torch_function(group_norm, tensors, input, num_groups, **more)
    if not jit_tracing():
        check_groups(input, num_groups, weight, bias)
    how = (return_sum, activation, negative_slope)
    return dispatch.normalized("group_norm", "group", num_groups, eps, widened(tensors), *how)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    return_sum: bool = False,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Any:
    """Normalizes each channel of each sample to mean 0 and variance 1, in one pass forward and one backward:
    ``activation((h - mean) / sqrt(var + eps) * weight + bias)``, where ``h = input + residual``.

    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for Fast Stylization", 2016. A
    drop-in for ``torch.nn.functional.instance_norm``, except that a channels-last input has a channels-last result.
    The residual is added first, as in :func:`rms_norm`.

    Args:
        input: (N, C, ...), any strides; float32, float64, bfloat16 or float16.
        running_mean, running_var: (C,), or None. Where the input's statistics are used, they are updated to ``momentum
            * new + (1 - momentum) * old``, where ``new`` is the mean over the samples; its variance is unbiased.
        weight, bias: (C,), or None for 1 and 0. These four have the type of ``input`` or, where that is a half type,
            float32.
        use_input_stats: normalize by the statistics of the input, rather than by the running ones.
        momentum: weight of the new value in the running statistics.
        eps: added to the variance.
        residual, return_sum, activation, negative_slope: see :func:`rms_norm`.

    Returns:
        A tensor of the shape and type of ``input``, channels-last where ``input`` is, and contiguous otherwise; with
        ``return_sum`` the pair ``(result, h)``.

    Raises:
        ValueError: a channel has a single value, one of the running statistics is missing, ``return_sum`` without a
            residual, or there is no such ``activation``.
        RuntimeError: an argument has the wrong shape, type or device.
    """
    tensors = (input, running_mean, running_var, weight, bias, residual)
    if has_torch_function_variadic(*tensors):
        options = options_of(residual, return_sum, activation, negative_slope)
        more: dict[str, Any] = {"running_mean": running_mean, "running_var": running_var, "weight": weight}
        more |= {"bias": bias, "use_input_stats": use_input_stats, "momentum": momentum, "eps": eps}
        return handle_torch_function(instance_norm, tensors, input, **more, **options)
    if not jit_tracing():
        check_instances(input, running_mean, running_var, weight, bias, use_input_stats)
    if return_sum:
        check_return_sum("instance_norm", residual)
    check_activation(activation)
    if exporting():
        h = input if residual is None else input + residual
        cudnn = torch.backends.cudnn.enabled
        z = torch.instance_norm(h, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn)
        y = z if activation is None else FUNCTIONS[activation](z, negative_slope)
        return (y, h) if return_sum else y
    if not use_input_stats:
        h = input if residual is None else input + residual
        how: dict[str, Any] = {"activation": activation, "negative_slope": negative_slope}
        y = batch_norm(h, running_mean, running_var, weight, bias, eps=eps, **how)
        return (y, h) if return_sum else y
    call = Call("group", input.shape[1], eps, activation or "identity", negative_slope)
    operands = (input, residual, weight, bias)
    if running_mean is None or running_var is None:
        y, total = dispatch.norm(call, operands)
    else:
        y, total, statistics = dispatch.norm_and_statistics(call, operands)
        update(running_mean, running_var, input, statistics, momentum, eps)
    return (y, total) if return_sum else y
