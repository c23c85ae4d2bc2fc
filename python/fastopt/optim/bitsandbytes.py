from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ._declared import Declared

_PACKED = "__bnb_optimizer_quant_state__"  # newer versions keep the states of a parameter under this key


def from_bitsandbytes(state_dict: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Turns the state dict of a bitsandbytes optimizer into one that ``optimizer`` loads.

    States of 8 bits (blocks of 256 or 2048 elements, a map of 256 values) and of 32 bits become float32. With
    ``state_dtype="int8"`` the next step codes them again, in fastopt's own code.

    Args:
        state_dict: of ``bitsandbytes.optim.AdamW8bit`` or the like, for the same parameters in the same order.
        optimizer: of fastopt, the one to be loaded. Hyperparameters stay its own.

    Returns:
        A state dict for ``optimizer.load_state_dict``.

    Raises:
        TypeError: ``optimizer`` is not fastopt's.
        ValueError: the optimizers have other numbers of states or of parameters.

    Examples:
        >>> optimizer = fastopt.AdamW(model.parameters(), lr=1e-3, state_dtype="int8")
        >>> optimizer.load_state_dict(fastopt.from_bitsandbytes(theirs.state_dict(), optimizer))
    """
    if not isinstance(optimizer, Declared):
        raise TypeError(
            f"from_bitsandbytes makes a state dict for fastopt's optimizers, not {type(optimizer).__name__}"
        )
    own = optimizer.state_dict()
    count = sum(len(group["params"]) for group in own["param_groups"])
    given = sum(len(group["params"]) for group in state_dict["param_groups"])
    if count != given:
        raise ValueError(f"the state dict is of {given} parameters, the optimizer has {count}")
    keys = {i: optimizer._update(group).states for group in own["param_groups"] for i in group["params"]}
    state = {i: _converted(entries, keys[i], i) for i, entries in state_dict["state"].items()}
    return {"state": state, "param_groups": own["param_groups"]}


def _converted(entries: dict[str, Any], keys: tuple[str, ...], number: int) -> dict[str, Any]:
    states = {**entries, **entries.get(_PACKED, {})}
    found = [k for k in (1, 2) if f"state{k}" in states]
    if len(found) != len(keys):
        raise ValueError(
            f"parameter {number} has {len(found)} states, where the optimizer has {', '.join(keys) or 'none'}"
        )
    floats = {key: _dequantized(states, k) for key, k in zip(keys, found, strict=True)}
    return {"step": torch.tensor(float(entries["step"])), **floats}


def _dequantized(states: dict[str, Any], k: int) -> Tensor:
    codes: Tensor = states[f"state{k}"]
    if codes.dtype != torch.uint8:
        return codes.float()
    scales: Tensor = states[f"absmax{k}"]
    values: Tensor = states[f"qmap{k}"][codes.reshape(-1).long()]
    block = next((size for size in (256, 2048) if -(-codes.numel() // size) == scales.numel()), None)
    if block is None:
        raise ValueError(f"{scales.numel()} scales for {codes.numel()} elements: not blocks of 256 or 2048")
    scale = scales.repeat_interleave(block)[: codes.numel()]
    result: Tensor = values * scale
    return result.reshape(codes.shape)
