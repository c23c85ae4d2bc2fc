"""Explains what is wrong with tensors that the kernels of a norm refuse. ``function`` is the name of the public one."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _runtime

HALF = (torch.bfloat16, torch.float16)


def check_input(function: str, input: Tensor) -> None:
    if input.dtype not in (torch.float32, torch.float64, *HALF):
        raise RuntimeError(f"{function}: input has to be float32, float64, bfloat16 or float16, but got {input.dtype}")
    if input.layout != torch.strided:
        raise RuntimeError(f"{function}: input has to be strided, but got {input.layout}")


def check_parameter(function: str, input: Tensor, name: str, parameter: Tensor) -> None:
    types = (torch.float32, input.dtype) if input.dtype in HALF else (input.dtype,)
    if parameter.dtype not in types:
        kinds = " or ".join(map(str, types))
        raise RuntimeError(f"{function}: {name} has to be {kinds} for an input of {input.dtype}, got {parameter.dtype}")
    if parameter.device != input.device:
        raise RuntimeError(f"{function}: {name} is on {parameter.device}, input on {input.device}")


def check_residual(function: str, input: Tensor, residual: Tensor | None) -> None:
    if residual is None:
        return
    for what in ("shape", "dtype", "device"):
        theirs, ours = getattr(residual, what), getattr(input, what)
        if theirs != ours:
            raise RuntimeError(f"{function}: residual has to have the {what} of input, {ours}, but got {theirs}")


def check_device(function: str, input: Tensor) -> None:
    why = _runtime.unsupported_reason(input.device)
    if why:
        raise RuntimeError(f"{function}: cannot take an input on {input.device}: {why}")


def check_memory(function: str, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None:
            _runtime.refuse_freed(tensor, f"{function}: {name}")
