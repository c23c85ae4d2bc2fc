"""Batch normalization with a residual and an activation."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .._norm.activations import check_activation
from .._norm.batch import checks, dispatch
from .._norm.batch.call import Call


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """Normalizes each channel over the batch and all positions, then adds a residual and applies an activation:
    ``activation((input - mean) / sqrt(var + eps) * weight + bias + residual)``, in one pass forward and one backward.

    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
    2015. Beyond ``torch.nn.functional.batch_norm``:

    - The statistics are right in every memory format, at any mean: the relative error of a variance is below 1e-6
      for noise around any mean, and below 3.6e-4 for any input.
    - The result has the same bits for any number of threads, on every CPU and GPU.
    - For the backward pass nothing is kept but the arguments and two numbers per channel.

    Args:
        input: (N, C, ...), any strides; float32, float64, bfloat16 or float16.
        running_mean, running_var: (C,). Training updates them to ``momentum * new + (1 - momentum) * old``, with the
            unbiased variance, unless they are None. Evaluation uses them instead of the batch's statistics.
        weight, bias: (C,), or None for 1 and 0. These four have the type of ``input`` or, where that is a half type,
            float32.
        training: normalize by the batch's statistics.
        momentum: weight of the new value in the running statistics.
        eps: added to the variance.
        activation: "relu", "relu6", "leaky_relu", "elu", "silu", "gelu" or "hardswish".
        residual: added before the activation; shape and type of ``input``.
        negative_slope: slope of "leaky_relu" below 0.

    Returns:
        A tensor of the shape, type and layout of ``input``.

    Raises:
        ValueError: a channel has a single value in training, ``eps`` is negative (or 0 in training), or there is no
            such ``activation``.
        RuntimeError: an argument has the wrong shape, type or device, or running statistics are missing.
    """
    tensors = (input, residual, weight, bias, running_mean, running_var)
    if has_torch_function_variadic(*tensors):
        options: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps, "activation": activation}
        more: dict[str, Any] = {"weight": weight, "bias": bias, "residual": residual, "negative_slope": negative_slope}
        return handle_torch_function(batch_norm, tensors, input, running_mean, running_var, **options, **more)
    if training:
        checks.check_sizes(input)
    checks.check_eps(eps, training)
    check_activation(activation)
    call = Call(training, momentum, eps, activation or "identity", negative_slope)
    return dispatch.batch_norm(call, tensors)
