"""The value of a parameter that its master completes, in torch's operations, for changes outside of a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._sharded import local
from ._update import HALF


def exact_value(param: Tensor, state: dict[str, Any]) -> Tensor:
    """The value, in float32 for half types; of a DTensor, this process's part. A master or a remainder that does not
    belong to the parameter, because somebody wrote to it, does not count (``reference/storage.py``)."""
    own = local(param.detach())
    if own.dtype not in HALF:
        return own
    kept = next((local(state[key]) for key in ("master", "remainder") if state.get(key) is not None), None)
    if kept is not None:
        own = own.to(kept.device)  # the host, for an offloaded optimizer
    wide = own.float()
    if state.get("master") is not None:
        assert kept is not None
        return torch.where(kept.to(own.dtype) == own, kept, wide)
    if kept is not None:
        low = kept.to(torch.int32)
        nearer = (own.view(torch.int16).to(torch.int32) & 0x7FFF) - (low < 0).to(torch.int32)
        low = torch.where((nearer >= 0) & (nearer < 0x7F80), low, 0)
        return (wide.view(torch.int32) + low).view(torch.float32)
    return wide


def set_value(param: Tensor, state: dict[str, Any], value: Tensor) -> None:
    """Writes a value as :func:`exact_value` gives it: to the master, and rounded to the nearest to the parameter."""
    own = local(param.detach())
    if own.dtype in HALF and state.get("remainder") is not None:
        bits, is_nan = value.view(torch.int32), value.isnan()
        upper = torch.where(is_nan, 0x7FC0, (bits + 0x8000) >> 16)  # ties away from zero
        own.copy_(upper.to(torch.int16).view(torch.bfloat16))
        local(state["remainder"]).copy_(torch.where(is_nan, 0, bits).to(torch.int16))
        return
    own.copy_(value)
    if own.dtype in HALF and state.get("master") is not None:
        local(state["master"]).copy_(value)
