"""States in 8 bits, in torch's operations (``csrc/math/codes.h`` has the kernels' definition): for checkpoints and
conversions."""

from __future__ import annotations

import enum
from typing import Any

import torch
from torch import Tensor

CODE_BLOCK = 32  # elements, as they lie in memory, with one scale


class Coding(enum.Enum):
    """Which numbers a state has, and which code they get."""

    SIGNED = torch.int8
    NON_NEGATIVE = torch.uint8


CODE_TYPES = tuple(coding.value for coding in Coding)

CODINGS = {
    "exp_avg": Coding.SIGNED,
    "exp_avg_diff": Coding.SIGNED,
    "exp_avg_fast": Coding.SIGNED,
    "exp_avg_slow": Coding.SIGNED,
    "momentum_buffer": Coding.SIGNED,
    "grad_avg": Coding.SIGNED,
    "exp_avg_sq": Coding.NON_NEGATIVE,
    "max_exp_avg_sq": Coding.NON_NEGATIVE,
    "exp_inf": Coding.NON_NEGATIVE,
    "square_avg": Coding.NON_NEGATIVE,
    "acc_delta": Coding.NON_NEGATIVE,
    "sum": Coding.NON_NEGATIVE,
    "variance": Coding.NON_NEGATIVE,
}
"""The usual meanings of the keys. A state that is not here is never coded."""


def scale_key(key: str) -> str:
    """The key of a coded state's scales."""
    return f"{key}_scale"


def _memory(tensor: Tensor) -> Tensor:
    """A dense tensor's elements as they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def encode(state: Tensor, coding: Coding) -> tuple[Tensor, Tensor]:
    """The codes, laid out like the float32 ``state``, and their scales."""
    codes = torch.zeros_like(state, dtype=coding.value)
    count = -(-state.numel() // CODE_BLOCK)
    blocks = torch.zeros(count * CODE_BLOCK, device=state.device)
    blocks[: state.numel()] = _memory(state)
    blocks = blocks.view(count, CODE_BLOCK)
    largest = (blocks.view(torch.int32) & 0x7FFFFFFF).amax(1)
    scales = torch.where(largest < 0x00800000, 0, largest)
    scales = torch.where(largest >= 0x7F800000, 0x7FC00000, scales).view(torch.float32)
    inverse = torch.where(scales > 0, 1.0 / scales, 0.0)
    number = blocks * inverse[:, None]
    if coding is Coding.SIGNED:
        number = torch.where(number == number, number, 0.0)
        rounded = (254.0 * number / (1.0 + number.abs())).round()
    else:
        one = 1 / 255**2  # has the code 1
        rounded = (255.0 * torch.where(number > one, number, one).sqrt()).round()
        rounded = torch.where(blocks > 0, rounded, 0.0)
    _memory(codes).copy_(rounded.view(-1)[: state.numel()])
    return codes, scales


def decode(codes: Tensor, scales: Tensor) -> Tensor:
    """The float32 state, laid out like its codes."""
    state = torch.empty_like(codes, dtype=torch.float32)
    scale = scales.repeat_interleave(CODE_BLOCK)[: codes.numel()]
    c = _memory(codes).to(torch.float32)
    if codes.dtype == torch.int8:
        values = c / (254.0 - c.abs()) * scale
    else:
        root = c * (1 / 255)
        values = root * root * scale
    _memory(state).copy_(values)
    return state


def decoded(state: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state with float32 numbers instead of codes and scales."""
    coded = {key for key, value in state.items() if getattr(value, "dtype", None) in CODE_TYPES}
    coded &= {key for key in state if scale_key(key) in state}
    scales = {scale_key(key) for key in state}
    return {
        key: decode(value, state[scale_key(key)]) if key in coded else value
        for key, value in state.items()
        if key not in scales
    }
