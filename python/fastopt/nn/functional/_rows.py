"""Normalization of rows: the last dimensions of each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .._norm.autocast import widened
from .._norm.sample import dispatch
from .._norm.sample.checks import why_no_rows
from .._tracing import jit_tracing
from ._overrides import options_of


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    residual: Tensor | None = None,
    return_sum: bool = False,
    activation: str | None = None,
    negative_slope: float = 0.01,
    round_before_weight: bool = False,
) -> Any:
    """Divides each row by the root of its mean square, in one pass forward and one backward:
    ``activation(h / sqrt(mean(h * h) + eps) * weight)``, where ``h = input + residual``.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019. A drop-in for ``torch.nn.functional.rms_norm``.

    The residual is added first, as transformers do, and ``h`` is rounded to the type of ``input``.
    (:func:`batch_norm` adds its residual after normalizing.)

    Args:
        input: (..., *normalized_shape), any strides; float32, float64, bfloat16 or float16.
        normalized_shape: the last dimensions, which form a row.
        weight: of shape ``normalized_shape``, or None for 1. A weight of another type than the input's, or than float32
            with half types, is converted first.
        eps: added to the mean square; None for the epsilon of float64 with a float64 input, and of float32 otherwise.
        residual: shape and type of ``input``; added before normalizing.
        return_sum: also return ``h``, the input of the next residual connection. Its gradient is added in the backward
            pass.
        activation: "relu", "relu6", "leaky_relu", "elu", "silu", "gelu" or "hardswish".
        negative_slope: slope of "leaky_relu" below 0.
        round_before_weight: round the normalized input to its half type before it is multiplied by the weight, as
            Hugging Face's models do; without effect in float32 and float64.

    Returns:
        A contiguous tensor of the shape and type of ``input``; with ``return_sum`` the pair ``(result, h)``.

    Raises:
        ValueError: ``return_sum`` without a residual, or there is no such ``activation``.
        RuntimeError: an argument has the wrong shape, type or device.
    """
    tensors = (input, residual, weight, None)
    if has_torch_function_variadic(input, residual, weight):
        options = options_of(residual, return_sum, activation, negative_slope)
        options["round_before_weight"] = round_before_weight
        return handle_torch_function(rms_norm, tensors[:3], input, normalized_shape, weight=weight, eps=eps, **options)
    if weight is not None and weight.dtype != input.dtype:
        tensors = (input, residual, _converted(weight, input), None)
    if eps is None:
        eps = torch.finfo(torch.float64 if input.dtype == torch.float64 else torch.float32).eps
    kind = "rms_rounded" if round_before_weight else "rms"
    return _norm("rms_norm", kind, tensors, normalized_shape, eps, return_sum, activation, negative_slope)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    return_sum: bool = False,
    activation: str | None = None,
    negative_slope: float = 0.01,
) -> Any:
    """Normalizes each row to mean 0 and variance 1, in one pass forward and one backward:
    ``activation((h - mean) / sqrt(var + eps) * weight + bias)``, where ``h = input + residual``.

    Ba, Kiros and Hinton, "Layer Normalization", 2016. A drop-in for ``torch.nn.functional.layer_norm``. The residual
    is added first, as in :func:`rms_norm`.

    Args:
        input: (..., *normalized_shape), any strides; float32, float64, bfloat16 or float16.
        normalized_shape: the last dimensions, which form a row.
        weight, bias: of shape ``normalized_shape``, or None for 1 and 0; they have the type of ``input`` or, where that
            is a half type, float32.
        eps: added to the variance.
        residual, return_sum, activation, negative_slope: see :func:`rms_norm`.

    Returns:
        A contiguous tensor of the shape and type of ``input``; with ``return_sum`` the pair ``(result, h)``.

    Raises:
        ValueError: ``return_sum`` without a residual, or there is no such ``activation``.
        RuntimeError: an argument has the wrong shape, type or device.
    """
    tensors = (input, residual, weight, bias)
    if has_torch_function_variadic(*tensors):
        options = options_of(residual, return_sum, activation, negative_slope)
        more: dict[str, Any] = {"weight": weight, "bias": bias, "eps": eps, **options}
        return handle_torch_function(layer_norm, tensors, input, normalized_shape, **more)
    return _norm("layer_norm", "layer", tensors, normalized_shape, eps, return_sum, activation, negative_slope)


def _converted(weight: Tensor, input: Tensor) -> Tensor:
    """Returns a weight of another type in one that the kernels take; torch multiplies such a weight as it is."""
    half = input.dtype in (torch.bfloat16, torch.float16)
    if (half and weight.dtype == torch.float32) or not (input.is_floating_point() and weight.is_floating_point()):
        return weight
    return weight.to(torch.float32 if half else input.dtype)


def _norm(
    function: str,
    kind: str,
    tensors: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    normalized_shape: Sequence[int],
    eps: float,
    return_sum: bool,
    activation: str | None,
    negative_slope: float,
) -> Any:
    input, _, weight, bias = tensors = widened(tensors)
    shape = normalized_shape if type(normalized_shape) is tuple else tuple(normalized_shape)
    if not jit_tracing() and (
        not shape
        or input.shape[-len(shape) :] != shape
        or (weight is not None and weight.shape != shape)
        or (bias is not None and bias.shape != shape)
    ):
        raise why_no_rows(function, input, shape, weight, bias)
    size = shape[0] if len(shape) == 1 else math.prod(shape)
    return dispatch.normalized(function, kind, size, eps, tensors, return_sum, activation, negative_slope)
