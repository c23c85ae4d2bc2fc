"""Checks of states that come from a checkpoint or from the user. Errors call them by their roles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._codes import CODE_BLOCK
from ._dense import kind_of, plain
from ._update import HALF


def scales_of(given: Any, codes: Tensor, key: str | None, name: str) -> Tensor:
    role = f"the state '{key}' of {name}"
    if given is None:
        raise RuntimeError(f"the state of {name} has no '{key}'")
    scales = plain(tensor_of(given, role), role)
    count = -(-codes.numel() // CODE_BLOCK)
    if scales.dtype != torch.float32 or scales.shape != (count,) or not scales.is_contiguous():
        raise RuntimeError(f"{role} is {kind_of(scales)}, where float32 of shape {(count,)} belongs")
    return scales


def tensor_of(state: Any, role: str) -> Tensor:
    if not isinstance(state, Tensor):
        raise TypeError(f"{role} is a {type(state).__name__}, not a tensor")
    return state


def check_likeness(state: Tensor, layout: Tensor, device: torch.device, role: str) -> None:
    wide = layout.dtype in HALF and state.dtype == torch.float32
    wide |= layout.dtype in (torch.float32, *HALF) and state.dtype == torch.bfloat16
    fits = state.shape == layout.shape and (wide or state.dtype == layout.dtype)
    if not fits or state.device != device:
        wanted = f"{layout.dtype} of shape {tuple(layout.shape)} on {device}"
        raise RuntimeError(f"{role} is {kind_of(state)}, where {wanted} belongs")
