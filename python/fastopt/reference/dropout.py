"""Dropout masks (docs/dropout_mask.md) and the dropout family in NumPy, with the functions of the
engine (``csrc/engine/dropout/dropout.h``)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import half
from .half import Array
from .operands import dense, known, strides
from .philox import philox
from .step import flat

CERTAIN = 1 << 48  # the threshold of a probability of 1
_SUM_STRIP, _SUM_ROWS = 16, 128  # rows that are summed before their sum is added to the others


def flags(elements: Array, seed: int, offset: int, threshold: int) -> Array:
    """Returns which of the mask's ``elements`` (uint64, any shape) are kept. Each is dropped with probability
    ``threshold / 2**48``."""
    if threshold in (0, CERTAIN):
        return np.full(elements.shape, threshold == 0)
    flat_elements = elements.reshape(-1)
    blocks, which = np.unique(flat_elements >> np.uint64(3), return_inverse=True)
    drawn = philox(seed, blocks, offset).view("<u2").reshape(-1, 8)[which, flat_elements & np.uint64(7)]
    first, others = threshold >> 32, threshold & 0xFFFFFFFF
    kept = drawn > first
    ties = np.flatnonzero(drawn == first)
    kept[ties] = philox(seed, flat_elements[ties] | np.uint64(1 << 63), offset)[:, 0] >= others
    shaped: Array = kept.reshape(elements.shape)
    return shaped


def mask(shape: tuple[int, ...], seed: int, offset: int, threshold: int) -> Array:
    """Returns the mask of ``shape``, elements in C order."""
    return flags(np.arange(math.prod(shape), dtype=np.uint64).reshape(shape), seed, offset, threshold)


def _flags_like(tensor: Tensor, mask_dims: int, seed: int, offset: int, threshold: int) -> Array:
    """Returns flags in the order of the tensor's memory."""
    shape = tuple(tensor.shape[:mask_dims])
    kept = torch.from_numpy(mask(shape, seed, offset, threshold))
    kept = kept.reshape(shape + (1,) * (tensor.ndim - len(shape))).expand(tensor.shape)
    in_memory = torch.empty_like(tensor, dtype=torch.bool).copy_(kept)
    numbers: Array = in_memory.as_strided((tensor.numel(),), (1,)).numpy()
    return np.repeat(numbers, 2) if tensor.is_complex() else numbers


def dropout(x: Array, kept: Array, residual: None, bias: None, scale: float) -> Array:
    dropped: Array = np.where(kept, x * x.dtype.type(scale), x.dtype.type(0))
    return dropped


def alpha_dropout(
    x: Array, kept: Array, residual: None, bias: None, scale: float, shift: float, dropped: float
) -> Array:
    number = x.dtype.type
    mapped: Array = np.where(kept, x * number(scale) + number(shift), number(dropped))
    return mapped


def dropout_add(x: Array, kept: Array, residual: Array, bias: None, scale: float) -> Array:
    return residual + dropout(x, kept, None, None, scale)


def bias_dropout_add(x: Array, kept: Array, residual: Array, bias: Array, scale: float) -> Array:
    with_bias = (x.reshape(-1, bias.size) + bias).reshape(-1)
    return residual + dropout(with_bias, kept, None, None, scale)


RULES: dict[str, Callable[..., Array]] = {
    rule.__name__: rule for rule in (dropout, alpha_dropout, dropout_add, bias_dropout_add)
}


def drop(
    rule: str,
    out: Tensor,
    input: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    mask_dims: int,
    seed: int,
    offset: int,
    threshold: int,
    scalars: tuple[float, ...],
    threads: int,
) -> bool:
    operands = [tensor for tensor in (out, input, residual) if tensor is not None]
    if not (
        all(map(known, operands))
        and dense(input)
        and (bias is None or (known(bias) and bias.is_contiguous() and input.is_contiguous()))
    ):
        return False
    if any(t.dtype != input.dtype or strides(t) != strides(input) for t in operands):
        return False
    if input.numel() == 0:
        return True
    kept = _flags_like(input, mask_dims, seed, offset, threshold)
    values = [None if t is None else half.load(flat(t)) for t in (residual, bias)]
    with np.errstate(all="ignore"):
        half.store(RULES[rule](half.load(flat(input)), kept, *values, *scalars), flat(out))
    return True


def _sums(rows: Array, count: int) -> Array:
    """Sums every ``count`` rows, in their order."""
    sums = np.zeros((-(-len(rows) // count), rows.shape[1]))
    for i in range(min(count, len(rows))):
        some = rows[i::count]
        sums[: len(some)] += some
    return sums


def drop_and_sum(
    grad_input: Tensor | None,
    grad_bias: Tensor,
    grad: Tensor,
    seed: int,
    offset: int,
    threshold: int,
    scale: float,
    threads: int,
) -> bool:
    if not (known(grad) and grad.is_contiguous() and grad_bias.is_contiguous()):
        return False
    kept = _flags_like(grad, grad.ndim, seed, offset, threshold)
    columns = grad_bias.numel()
    with np.errstate(all="ignore"):
        values = dropout(half.load(flat(grad)), kept, None, None, scale)
        if grad_input is not None:
            half.store(values, flat(grad_input))
        rows = values.astype(np.float64).reshape(-1, columns) if columns else np.zeros((0, 0))
        blocks = _sums(_sums(rows, _SUM_STRIP), _SUM_ROWS // _SUM_STRIP)
        total = _sums(blocks, max(len(blocks), 1)).sum(0)
        half.store(total.astype(values.dtype), flat(grad_bias))
    return True


def write_mask(out: Tensor, n: int, packed: bool, seed: int, offset: int, threshold: int, threads: int) -> None:
    kept = mask((n,), seed, offset, threshold)
    out.view(-1).numpy()[...] = np.packbits(kept, bitorder="little") if packed else kept
