"""Explains what is wrong with arguments that the kernels refuse, in torch's words where it has them."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..batch.checks import check_running
from ..checks import check_input, check_parameter, check_residual


def check(call: Any, operands: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]) -> None:
    """Raises an error where the types or devices are wrong. If it raises none, only their layout is unusual."""
    input, residual, weight, bias = operands
    function = call.function
    check_input(function, input)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            check_parameter(function, input, name, tensor)
    check_residual(function, input, residual)


def check_return_sum(function: str, residual: Tensor | None) -> None:
    if residual is None:
        raise ValueError(f"{function}: return_sum=True needs a residual: without one, there is no sum")


def why_no_rows(
    function: str, input: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None
) -> Exception:
    """Explains what is wrong with the shapes of a norm of rows."""
    shape = list(normalized_shape)
    if not shape:
        return RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got "
            "normalized_shape = []"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tuple(tensor.shape) != normalized_shape:
            return RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(tensor.shape)} and normalized_shape = {shape}"
            )
    if function == "rms_norm" and input.ndim < len(shape):
        return ValueError(f"Input tensor must have at least {len(shape)} dimensions, but got {input.ndim}")
    expected = "".join(f", {n}" for n in shape) if function == "layer_norm" else ", ".join(map(str, shape))
    return RuntimeError(
        f"Given normalized_shape={shape}, expected input with shape [*{expected}], but got input of "
        f"size{list(input.shape)}"
    )


def check_groups(input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None) -> None:
    shape = input.shape
    if len(shape) < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {len(shape)}")
    samples, channels = shape[:2]
    if samples * channels // num_groups == 1 and math.prod(shape[2:]) == 1:
        sizes = [1, num_groups, *shape[2:]]
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {sizes}")
    if num_groups < 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if channels % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(shape)} and num_groups={num_groups}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.shape != (channels,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} of "
                f"shape {list(tensor.shape)} and input of shape {list(shape)}"
            )


def check_instances(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
) -> None:
    if use_input_stats:
        if math.prod(input.shape[2:]) == 1:
            raise ValueError(f"Expected more than 1 spatial element when training, got input size {input.shape}")
        if (running_mean is None) != (running_var is None):
            raise ValueError("running_mean and running_var must either both be None or neither be None")
        check_running(True, running_mean, running_var)
    elif running_mean is None or running_var is None:
        raise RuntimeError("Expected running_mean and running_var to be defined when use_input_stats is false")
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, tensor in named.items():
        if tensor is not None and tensor.shape != input.shape[1:2]:
            raise RuntimeError(f"{name} should contain {input.shape[1]} elements not {tensor.numel()}")
    if running_mean is not None or running_var is not None:
        check_input("instance_norm", input)
    for name in ("running_mean", "running_var"):
        tensor = named[name]
        if tensor is not None:
            check_parameter("instance_norm", input, name, tensor)
