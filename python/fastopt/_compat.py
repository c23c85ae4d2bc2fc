"""What differs between the versions of torch we run with."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules import module as torch_modules


def _increment_version() -> Callable[[list[Tensor]], None]:
    """torch's own function, past its Python wrapper where it takes many tensors (torch 2.4: one)."""
    native: Any = getattr(torch._C, "_increment_version", torch.autograd.graph.increment_version)
    try:
        native([])
        return native  # type: ignore[no-any-return]
    except (TypeError, AttributeError, RuntimeError):

        def one_by_one(tensors: list[Tensor]) -> None:
            for tensor in tensors:
                native(tensor)

        return one_by_one


# Tells autograd that the tensors' memory is written behind its back.
increment_version = _increment_version()


def _has_any_global_hook() -> Callable[[], Any]:
    """Whether all modules have hooks: torch's own function, or what it does (torch 2.4 has none)."""
    known: Callable[[], Any] | None = getattr(torch_modules, "_has_any_global_hook", None)
    everywhere = [d for name, d in vars(torch_modules).items() if name.startswith("_global_") and isinstance(d, dict)]
    return known or (lambda: any(everywhere))


has_any_global_hook = _has_any_global_hook()


def current_raw_stream(device: int) -> int:
    """The stream of a CUDA device that torch uses now, past its Python object where torch has that function."""
    quick = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return int(torch.cuda.current_stream(device).cuda_stream if quick is None else quick(device))


# An autograd function of one level of torch.func at a time, whose forward takes the context. torch makes its own of it
# under transforms. ``torch.autograd.Function`` asks for ``setup_context`` there, which is for functions that know
# nothing of levels: in Python up to torch 2.13, in C++ from 2.14 on, which nothing of ours can go past.
if TYPE_CHECKING:
    SingleLevelFunction = torch.autograd.Function
else:
    SingleLevelFunction = torch.autograd.function._SingleLevelFunction


def accepted(cls: type, **options: Any) -> dict[str, Any]:
    """Those of the options that this torch's class has as arguments."""
    known = inspect.signature(cls).parameters
    return {key: value for key, value in options.items() if key in known}


def distributed_tensor() -> Any:
    """The module of DTensor and its placements, public from torch 2.5 on."""
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
