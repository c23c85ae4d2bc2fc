"""What decides about a dropout mask besides its shape: probability, seed, offset (docs/dropout_mask.md)."""

from __future__ import annotations

import math
import threading
from functools import lru_cache

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

CERTAIN = 1 << 48
_WORD = 1 << 64

# SELU's scale * alpha, the negative of its limit at minus infinity (Klambauer et al., 2017).
_SELU_LIMIT = 1.7580993408473766


def check_p(p: float) -> float:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return float(p)


def threshold(p: float) -> int:
    """An element is dropped with probability ``threshold(p) / 2**48``, the nearest to ``p``."""
    return round(p * CERTAIN)


@lru_cache(maxsize=1024)
def constants(rule: str, p: float) -> tuple[str, int, tuple[float, ...]]:
    """The kernel of ``rule``, the threshold of ``p`` and the kernel's scalars. They are made from the probability
    that is really drawn, so the expectation is that of the input for every ``p`` but 1."""
    t = threshold(p)
    dropped = t / CERTAIN
    if rule in ("alpha_dropout", "alpha_gradient"):
        scale = 0.0 if t == CERTAIN else 1 / math.sqrt((1 - dropped) * (1 + dropped * _SELU_LIMIT**2))
        limit = scale * _SELU_LIMIT
        return (
            ("dropout", t, (scale,))
            if rule == "alpha_gradient"
            else (rule, t, (scale, limit * dropped, limit * (dropped - 1)))
        )
    return rule, t, (0.0 if t == CERTAIN else 1 / (1 - dropped),)


def gradient(rule: str) -> str:
    """The rule that gives the gradient of the input of ``rule``."""
    return "alpha_gradient" if rule.startswith("alpha") else "dropout"


class _Drawn(threading.local):
    """Where a thread's generator writes: making a tensor costs more than drawing."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.seed = torch.empty((), dtype=torch.int64, device="cpu")


_drawn = _Drawn()


def draw_seed(generator: torch.Generator | None) -> int:
    """63 bits from torch's generator of the CPU, or from ``generator``."""
    seed = _drawn.seed
    if torch._C._are_functorch_transforms_active():
        with temporarily_clear_interpreter_stack():  # vmap has its own idea of a generator
            return int(seed.random_(generator=generator).item())
    return int((seed.random_() if generator is None else seed.random_(generator=generator)).item())


def draw_seed_tensor(generator: torch.Generator | None) -> Tensor:
    """The same as a 0-dim int64 tensor."""
    return torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator)


def check_word(name: str, value: int) -> None:
    if not isinstance(value, int) or not 0 <= value < _WORD:
        raise ValueError(f"{name} has to be an int from 0 to 2**64 - 1, but got {value!r}")


def signed(word: int) -> int:
    """The int64 with the same bits."""
    return word - _WORD if word >= _WORD // 2 else word


def unsigned(number: int) -> int:
    """The word with the same bits."""
    return number & (_WORD - 1)
