"""Dropout of elements and of weights, and the mask itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from .._dropout import dispatch, mask, operators
from .._tracing import is_traced
from ._overrides import handed_over


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sets elements to zero with probability ``p`` and scales the others by ``1 / (1 - p)``.

    Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors", 2012.

    Args:
        input: any shape.
        p: probability of an element to be zeroed.
        training: if False, ``input`` is returned as it is.
        inplace: write to ``input`` and return it.
        seed, offset, generator: see the module.

    Returns:
        A tensor of the shape, type and layout of ``input``.

    Raises:
        ValueError: ``p``, ``seed`` or ``offset`` is out of range; or both ``seed`` and ``generator`` are given.
        RuntimeError: ``input`` is of a type, layout or device that is not supported.
    """
    if has_torch_function_unary(input):
        how = {"inplace": inplace, "seed": seed, "offset": offset, "generator": generator}
        return handed_over(dropout, (input,), p=p, training=training, **how)
    p = mask.check(p, seed, offset, generator)
    if not training or p == 0:
        return input
    return dispatch.drop("dropout", input, p, input.dim(), inplace, seed, offset, generator)


def drop_connect(
    weight: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sets weights, that is single connections, to zero with probability ``p`` and scales the others by
    ``1 / (1 - p)``. :class:`fastopt.nn.DropConnect` applies it to a module.

    Wan et al., "Regularization of neural networks using DropConnect", 2013, with the expectation preserved in
    training instead of sampled at inference.

    Args:
        weight: any shape.
        p: probability of a weight to be zeroed.
        training, seed, offset, generator: see :func:`dropout`.

    Returns:
        A tensor of the shape, type and layout of ``weight``.

    Raises:
        ValueError, RuntimeError: see :func:`dropout`.
    """
    return dropout(weight, p, training, seed=seed, offset=offset, generator=generator)


def dropout_mask(
    shape: int | Sequence[int],
    p: float,
    *,
    seed: int,
    offset: int = 0,
    packed: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Makes the mask that the functions above apply for ``seed`` and ``offset``.

    Args:
        shape: shape of the tensor that is dropped from; for channel-wise dropout that of its channels, ``(N, C)``.
        p: probability of an element to be dropped.
        seed, offset: ints from 0 to 2**64 - 1.
        packed: eight elements to a byte, the first in the lowest bit; unused bits are 0.
        device: where the mask is made; its bits are the same on every device.

    Returns:
        A bool tensor of ``shape``, true where the element is kept; or, if ``packed``, a uint8 tensor of
        ``ceil(n / 8)`` bytes for the n elements in C order.

    Raises:
        ValueError: ``shape``, ``p``, ``seed`` or ``offset`` is out of range.
        RuntimeError: there are no kernels for ``device``.
    """
    p = mask.check_p(p)
    seed, offset = mask.check_word("seed", seed), mask.check_word("offset", offset)
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if min(sizes, default=0) < 0:
        raise ValueError(f"shape has a negative dimension: {sizes}")
    make = operators.dropout_mask if is_traced() else mask.write
    return make(sizes, p, seed, offset, packed, torch.device(device))
