"""What differs between the versions of torch that we run with."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules import module as torch_modules


def _increment_version() -> Callable[[list[Tensor]], None]:
    """Returns torch's own function, without its Python wrapper where it takes many tensors (torch 2.4 takes one)."""
    native: Any = getattr(torch._C, "_increment_version", torch.autograd.graph.increment_version)
    try:
        native([])
        return native  # type: ignore[no-any-return]
    except (TypeError, AttributeError, RuntimeError):

        def one_by_one(tensors: list[Tensor]) -> None:
            for tensor in tensors:
                native(tensor)

        return one_by_one


# Tells autograd that something else writes the tensors' memory.
increment_version = _increment_version()


def _has_any_global_hook() -> Callable[[], Any]:
    """Returns a function that tells whether there are hooks on all modules: torch's own or, for torch 2.4, ours."""
    known: Callable[[], Any] | None = getattr(torch_modules, "_has_any_global_hook", None)
    everywhere = [d for name, d in vars(torch_modules).items() if name.startswith("_global_") and isinstance(d, dict)]
    return known or (lambda: any(everywhere))


has_any_global_hook = _has_any_global_hook()


def current_raw_stream(device: int) -> int:
    """Returns the stream of a CUDA device that torch uses now, without its Python object where torch can do so."""
    quick = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return int(torch.cuda.current_stream(device).cuda_stream if quick is None else quick(device))


# The base of autograd functions for one level of torch.func at a time, whose forward takes the context. torch derives
# its own from it under transforms. ``torch.autograd.Function`` demands ``setup_context`` there, which is for functions
# that know nothing of levels. Up to torch 2.13 Python demands it, from 2.14 on C++, which we cannot bypass.
if TYPE_CHECKING:
    SingleLevelFunction = torch.autograd.Function
else:
    SingleLevelFunction = torch.autograd.function._SingleLevelFunction


def accepted(cls: type, **options: Any) -> dict[str, Any]:
    """Returns those of the options that are arguments of the class in this torch."""
    known = inspect.signature(cls).parameters
    return {key: value for key, value in options.items() if key in known}


def distributed_tensor() -> Any:
    """Returns the module of DTensor and its placements, which is public from torch 2.5 on."""
    from torch.distributed import tensor

    return tensor if hasattr(tensor, "DTensor") else importlib.import_module("torch.distributed._tensor")


class _Adafactor(torch.optim.Optimizer):
    """The constructor of ``torch.optim.Adafactor``, which torch has from 2.5 on."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        beta2_decay: float,
        eps: tuple[float | None, float],
        d: float,
        weight_decay: float,
        *,
        foreach: bool | None,
        maximize: bool,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        ranges = {
            f"Learning rate should be >= 0 but is: {lr}": lr >= 0,
            f"beta2_decay should be <= 0 but is: {beta2_decay}": beta2_decay <= 0,
            f"epsilon1 should be >= 0 but is: {eps[0]}": eps[0] is None or eps[0] >= 0,
            f"epsilon2 should be >= 0 but is: {eps[1]}": eps[1] >= 0,
            f"Clipping threshold d should be >= 1 but is: {d}": d >= 1,
            f"weight_decay should be >= 0 but is: {weight_decay}": weight_decay >= 0,
        }
        for message, good in ranges.items():
            if not good:
                raise ValueError(message)
        options = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        super().__init__(params, {**options, "foreach": foreach, "maximize": maximize})


Adafactor: Any = getattr(torch.optim, "Adafactor", _Adafactor)


# Without it only isinstance() knows the difference: the constructor is ours.
Muon: Any = getattr(torch.optim, "Muon", torch.optim.Optimizer)
