"""The numbers among a parameter's states: the count of its updates, and what is carried from step to step. They are on
the CPU or, with ``capturable=True``, on the parameter's device."""

from __future__ import annotations

import math
import reprlib
from typing import Any

import torch
from torch import Tensor

from ._dense import kind_of

_LAST_FLOAT_STEP = 2**24  # float32 counts exactly up to here
_LAST_STEP = 2**53  # and float64 up to here
_CPU = torch.device("cpu")


def place(capturable: Any, param: Tensor) -> torch.device:
    return param.device if capturable else _CPU


def number(value: float, device: torch.device) -> Tensor:
    """Makes a 0-dim tensor of the type that torch chooses for its own 'step' tensors."""
    wide = torch.get_default_dtype() == torch.float64
    return torch.scalar_tensor(value, dtype=torch.float64 if wide else torch.float32, device=device)


def _is_number(value: Any, device: torch.device) -> bool:
    """Whether the engine reads and writes ``value`` as one number."""
    good = isinstance(value, Tensor) and value.device == device and value.numel() == 1
    return good and value.dtype in (torch.float32, torch.float64)


def _value(state: Any, role: str) -> float:
    """Returns the value of a number or of a tensor of one element; a string is no number."""
    try:
        if hasattr(state, "__float__"):
            return float(state)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # of several elements, complex, too large, on meta
        pass
    what = kind_of(state) if isinstance(state, Tensor) else reprlib.repr(state)
    raise RuntimeError(f"{role} is {what}, not a number")


def as_number(value: Any, device: torch.device, role: str) -> Tensor:
    """Returns a carried number as the engine takes it; older checkpoints have floats."""
    return value if _is_number(value, device) else number(_value(value, role), device)


def as_count(step: Any, device: torch.device, name: str) -> Tensor:
    """Returns a 'step' in which the engine can go on counting. The value of one on a device is not checked, because
    the CPU would have to wait for it."""
    good = _is_number(step, device)
    if good and device != _CPU:
        return step  # type: ignore[no-any-return]
    role = f"the state 'step' of {name}"
    value = _value(step, role)
    if value == math.inf or not (value >= 0 and value == int(value)):
        raise RuntimeError(f"{role} is {value}, not a count")
    if value >= _LAST_STEP:
        raise RuntimeError(f"{role} is {value:.0f}: steps can be counted below 2**53")
    exact = value < _LAST_FLOAT_STEP
    if good and (step.dtype == torch.float64 or exact):
        return step  # type: ignore[no-any-return]
    return number(value, device) if exact else torch.tensor(value, dtype=torch.float64, device=device)
