"""Batch normalization by torch's operations, to compare with ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as T
from torch import Tensor, nn

import fastopt
from support import some_values

Tensors = dict[str, Tensor | None]

RUNNING = ["running_mean", "running_var"]

# Inputs for modules with 5 channels.
INPUTS = {
    "BatchNorm1d": [(6, 5), (4, 5, 7)],
    "BatchNorm2d": [(3, 5, 4, 6)],
    "BatchNorm3d": [(2, 5, 3, 4, 3)],
}
CASES = [(name, shape) for name, shapes in INPUTS.items() for shape in shapes]
HAS_BIAS = "bias" in inspect.signature(nn.BatchNorm2d).parameters
FLAGS: list[dict[str, Any]] = [
    {},
    {"eps": 0.2},
    {"momentum": 0.7},
    {"momentum": 0.0},
    {"momentum": 1.0},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
    {"momentum": None, "track_running_stats": False},
    {"dtype": torch.float64},
    {"device": "cpu"},
    *([{"bias": False}, {"bias": False, "affine": False}] if HAS_BIAS else []),
]


def some_tensors(
    shape: tuple[int, ...] = (4, 5, 3, 6), dtype: torch.dtype = torch.float32, parameters: torch.dtype | None = None
) -> Tensors:
    """All tensors except a residual; each channel has a different mean and deviation."""
    channels, parameters = shape[1], parameters or dtype
    along = (1, -1, *[1] * (len(shape) - 2))
    middle, width = (some_values(channels, torch.float64, seed).view(along) for seed in (1, 2))
    return {
        "input": (some_values(shape, torch.float64, 0) * width + 3 * middle).to(dtype),
        "running_mean": some_values(channels, parameters, 3),
        "running_var": some_values(channels, parameters, 4).abs(),
        "weight": some_values(channels, parameters, 5),
        "bias": some_values(channels, parameters, 6),
    }


def composed(
    input: Tensor,
    *others: Any,
    activation: str | None = None,
    residual: Tensor | None = None,
    negative_slope: float = 0.01,
    **options: Any,
) -> Tensor:
    """Composes what torch has no single function for."""
    z = T.batch_norm(input, *others, **options)
    z = z if residual is None else z + residual
    if activation is None:
        return z
    more = [negative_slope] if activation == "leaky_relu" else []
    return getattr(T, activation)(z, *more)


def run(function: Callable[..., Tensor], tensors: Tensors, grad: Tensor, **options: Any) -> dict[str, Tensor]:
    """The output, the running statistics after the call, and all gradients."""
    given = {name: None if tensor is None else tensor.detach() for name, tensor in tensors.items()}
    for name in RUNNING:
        given[name] = None if given[name] is None else given[name].clone()
    leaves = {name: t.requires_grad_() for name, t in given.items() if t is not None and name not in RUNNING}
    residual = {"residual": given["residual"]} if "residual" in given else {}
    order = ("input", *RUNNING, "weight", "bias")
    output = function(*(given[name] for name in order), **residual, **options)
    grads = torch.autograd.grad(output, list(leaves.values()), grad)
    found = {"output": output, **{name: given[name] for name in RUNNING if given[name] is not None}}
    return found | {f"gradient of {name}": g for name, g in zip(leaves, grads, strict=True)}


def both(name: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """Our module and torch's with the same state, in which no value is the initial one."""
    pair = getattr(fastopt.nn, name)(*args, **options), getattr(nn, name)(*args, **options)
    disturb(pair[1])
    pair[0].load_state_dict(pair[1].state_dict())
    return pair


def disturb(module: nn.Module, seed: int = 20) -> None:
    with torch.no_grad():
        for i, (key, tensor) in enumerate(module.state_dict().items()):
            if tensor.is_floating_point():
                values = some_values(tensor.shape, tensor.dtype, seed + i)
                tensor.copy_(values.abs() if key.endswith("running_var") else values)


def batch(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return some_values(shape, dtype, seed) * (seed % 3 + 1) + 2 * seed
