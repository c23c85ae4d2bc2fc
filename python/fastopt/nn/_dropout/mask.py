"""What determines a dropout mask of a given shape: probability, seed, offset (docs/dropout_mask.md)."""

from __future__ import annotations

import math
import operator
import threading
from functools import lru_cache

import torch
from torch import Tensor

from ... import _runtime

CERTAIN = 1 << 48  # the threshold of a probability of 1
_WORD = 1 << 64

# SELU's scale * alpha, the negative of its limit at minus infinity (Klambauer et al., 2017).
_SELU_LIMIT = 1.7580993408473766


def check_p(p: float) -> float:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return float(p)


def check(p: float, seed: int | None, offset: int, generator: torch.Generator | None) -> float:
    """Checks the arguments that all functions of the family take; returns ``p``."""
    if seed is not None:
        check_word("seed", seed)
        if generator is not None:
            raise ValueError("seed and generator exclude each other")
    elif generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator has to be a torch.Generator, but got {generator!r}")
    if offset != 0:
        check_word("offset", offset)
    return check_p(p)


def threshold(p: float) -> int:
    """Returns t such that ``t / 2**48`` is nearest to ``p``: elements are dropped with that probability."""
    return round(p * CERTAIN)


@lru_cache(maxsize=1024)
def constants(rule: str, p: float) -> tuple[str, int, tuple[float, ...]]:
    """Returns the kernel of ``rule``, the threshold of ``p`` and the kernel's scalars. Scalars follow from the
    probability that is really drawn, so the result has the expectation of the input for every ``p`` but 1."""
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
    """The tensor into which a thread draws: making a new one would cost more than drawing."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.seed = torch.empty((), dtype=torch.int64, device="cpu")


_drawn = _Drawn()


def draw_seed(input: Tensor, generator: torch.Generator | None) -> int | Tensor:
    """Draws 63 bits for a mask of ``input``, from torch's generator of the CPU or from ``generator``. Returns a number;
    in a CUDA graph and from a GPU's generator a tensor, which nothing waits for and each replay draws anew."""
    if _runtime.on_device(input):
        if generator is not None and generator.device.type == "cuda":
            if generator.device != input.device:
                raise RuntimeError(f"generator is on {generator.device}, but the input on {input.device}")
            return draw_seed_on(input.device, generator)
        if _runtime.capturing():
            if generator is not None:
                raise RuntimeError(
                    "a CUDA graph would repeat what a generator of the CPU draws now: leave generator out, or pass "
                    f"one of {input.device} that is registered with the graph"
                )
            return draw_seed_on(input.device)
    seed = _drawn.seed
    return int((seed.random_() if generator is None else seed.random_(generator=generator)).item())


def draw_seed_on(device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Draws 63 bits into a 0-dim tensor, from the device's generator."""
    return torch.empty((), dtype=torch.int64, device=device).random_(generator=generator)


def check_word(name: str, value: int) -> int:
    try:
        word = operator.index(value)
    except TypeError:
        word = -1
    if not 0 <= word < _WORD:
        raise ValueError(f"{name} has to be an int from 0 to 2**64 - 1, but got {value!r}")
    return word


def signed(word: int) -> int:
    """The int64 with the same bits."""
    return word - _WORD if word >= _WORD // 2 else word


def unsigned(number: int) -> int:
    """The word with the same bits."""
    return number & (_WORD - 1)


def empty(shape: tuple[int, ...], packed: bool, device: torch.device) -> Tensor:
    """Memory for a mask."""
    if packed:
        return torch.empty((math.prod(shape) + 7) // 8, dtype=torch.uint8, device=device)
    return torch.empty(shape, dtype=torch.bool, device=device)


def write(
    shape: tuple[int, ...], p: float, seed: int | Tensor, offset: int, packed: bool, device: torch.device
) -> Tensor:
    """Makes the mask."""
    if why := _runtime.unsupported_reason(device):
        raise RuntimeError(f"dropout_mask: cannot make a mask on device '{device}'; {why}")
    out = empty(shape, packed, device)
    if out.numel() > 0:
        n = math.prod(shape)
        _runtime.kernels.write_mask(out, n, packed, seed, offset, threshold(p), torch.get_num_threads())
    return out
