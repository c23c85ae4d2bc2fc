"""What the operators of torch's dispatcher for norms have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._tracing import by_samples, library
from .dense import Gradients, Maybe, Wanted

Results: TypeAlias = tuple[Tensor, ...]


def by_kernels(name: str) -> Callable[[Any], Any]:
    """Registers a function as the operator ``name`` on the CPU and on GPUs."""

    def register(function: Any) -> Any:
        for key in ("CPU", "CUDA"):
            library.impl(name, function, key)
        return function

    return register


# Operators cannot return None, so an empty tensor stands for it.


def without_none(tensors: Gradients, like: Tensor) -> Results:
    return tuple(_or_empty(tensor, like) for tensor in tensors)


def _or_empty(tensor: Maybe, like: Tensor) -> Tensor:
    return like.new_empty(0) if tensor is None else tensor


def only_wanted(wants: Wanted, found: Results) -> Gradients:
    return tuple(g if want else None for g, want in zip(found, wants, strict=True))


def register_vmap(name: str) -> None:
    """Lets vmap run an operator sample by sample. torch before 2.5 does so by itself, and warns."""
    operator = getattr(torch.ops.fastopt, name)

    def stacked(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        results = tuple(map(torch.stack, zip(*by_samples(operator, info, in_dims, *args), strict=True)))
        return results, (0,) * len(results)

    if hasattr(torch.library, "register_vmap"):
        torch.library.register_vmap(f"fastopt::{name}", stacked)
