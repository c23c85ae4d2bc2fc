"""Functional twins of ``fastopt.nn``: drop-in for their namesakes in ``torch.nn.functional``.

Common to all functions that drop:

- ``seed`` and ``offset`` (ints from 0 to 2**64 - 1) choose the mask: the same ones give the same mask on every
  machine (docs/dropout_mask.md). Without ``seed``, one is drawn from ``generator``, or from torch's own generator of
  the CPU, which ``torch.manual_seed`` governs. Nothing is drawn where it would decide nothing: ``p`` of 0 or
  1, not ``training``.
- Nothing but seed and offset is kept for the backward pass, which makes the mask again.
- Dropped elements are 0, infinite and NaN ones too, and so are their gradients.
- float32, float64, bfloat16 and float16 tensors on the CPU, complex ones where it is not said otherwise; any strides.
- The result has the probability's exact expectation: kept elements are scaled by the probability that is
  drawn in fact, ``p`` rounded to a multiple of 2**-48.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_unary

from .. import _runtime
from . import _dropout, _mask

__all__ = [
    "alpha_dropout",
    "bias_dropout_add",
    "drop_connect",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "dropout_mask",
    "feature_alpha_dropout",
]


def _handed_over(function: Any, tensors: tuple[Any, ...], **arguments: Any) -> Any:
    return handle_torch_function(function, tensors, *tensors, **arguments)


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
        training: otherwise ``input`` is returned as it is.
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
        return _handed_over(dropout, (input,), p=p, training=training, **how)  # type: ignore[no-any-return]
    p = _mask.check_p(p)
    if not training or p == 0:
        return input
    return _dropout.drop("dropout", input, p, input.dim(), inplace, seed, offset, generator)


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sets whole channels to zero with probability ``p`` and scales the others by ``1 / (1 - p)``.

    Tompson et al., "Efficient object localization using convolutional networks", 2015 (SpatialDropout).

    Args:
        input: shape (N, C, L) or (C, L).
        p: probability of a channel to be zeroed.
        training, inplace, seed, offset, generator: see :func:`dropout`.

    Returns:
        A tensor of the shape, type and layout of ``input``.

    Raises:
        RuntimeError: ``input`` has another number of dimensions.
        ValueError, RuntimeError: see :func:`dropout`.
    """
    if has_torch_function_unary(input):
        how = {"inplace": inplace, "seed": seed, "offset": offset, "generator": generator}
        return _handed_over(dropout1d, (input,), p=p, training=training, **how)  # type: ignore[no-any-return]
    p = _mask.check_p(p)
    if input.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input. Note that dropout1d exists to "
            "provide channel-wise dropout on inputs with 1 spatial dimension, a channel dimension, and an optional "
            "batch dimension (i.e. 2D or 3D inputs)."
        )
    if not training or p == 0:
        return input
    return _dropout.drop("dropout", input, p, input.dim() - 1, inplace, seed, offset, generator)


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sets whole channels to zero with probability ``p`` and scales the others by ``1 / (1 - p)``; see
    :func:`dropout1d`.

    As in torch, the first two dimensions are taken for N and C whatever their number, with a warning where it is
    not 4.

    Args:
        input: shape (N, C, H, W).
        p: probability of a channel to be zeroed.
        training, inplace, seed, offset, generator: see :func:`dropout`.

    Returns:
        A tensor of the shape, type and layout of ``input``.

    Raises:
        ValueError, RuntimeError: see :func:`dropout`.
    """
    if has_torch_function_unary(input):
        how = {"inplace": inplace, "seed": seed, "offset": offset, "generator": generator}
        return _handed_over(dropout2d, (input,), p=p, training=training, **how)  # type: ignore[no-any-return]
    p = _mask.check_p(p)
    if input.dim() not in (3, 4):
        _warn_of_dims("dropout2d", 2, "3D or 4D", input)
    if input.dim() == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout behavior is "
            "desired - input is interpreted as shape (N, C, L), where C is the channel dim. To silence this warning, "
            "please use dropout1d instead.",
            stacklevel=2,
        )
    if not training or p == 0:
        return input
    return _dropout.drop("dropout", input, p, _channels("dropout2d", input), inplace, seed, offset, generator)


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sets whole channels to zero with probability ``p`` and scales the others by ``1 / (1 - p)``; see
    :func:`dropout1d`.

    Args:
        input: shape (N, C, D, H, W) or (C, D, H, W).
        p: probability of a channel to be zeroed.
        training, inplace, seed, offset, generator: see :func:`dropout`.

    Returns:
        A tensor of the shape, type and layout of ``input``.

    Raises:
        ValueError, RuntimeError: see :func:`dropout`.
    """
    if has_torch_function_unary(input):
        how = {"inplace": inplace, "seed": seed, "offset": offset, "generator": generator}
        return _handed_over(dropout3d, (input,), p=p, training=training, **how)  # type: ignore[no-any-return]
    p = _mask.check_p(p)
    if input.dim() not in (4, 5):
        _warn_of_dims("dropout3d", 3, "4D or 5D", input)
    batched = input.dim() == 5
    if input.dim() == 0:
        raise RuntimeError(_NO_CHANNELS.format("dropout3d"))
    if not training or p == 0:
        return input
    return _dropout.drop("dropout", input, p, 2 if batched else 1, inplace, seed, offset, generator)


_NO_CHANNELS = "{}: Feature dropout requires at least 2 dimensions in the input"


def _channels(name: str, input: Tensor) -> int:
    if input.dim() < 2:
        raise RuntimeError(_NO_CHANNELS.format(name))
    return 2


def _warn_of_dims(name: str, spatial: int, expected: str, input: Tensor) -> None:
    warnings.warn(
        f"{name}: Received a {input.dim()}-D input to {name}, which is deprecated and will result in an error in a "
        "future release. To retain the behavior and silence this warning, please use dropout instead. Note that "
        f"{name} exists to provide channel-wise dropout on inputs with {spatial} spatial dimensions, a channel "
        f"dimension, and an optional batch dimension (i.e. {expected} inputs).",
        stacklevel=3,
    )


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Dropout for SELU networks: keeps mean 0 and variance 1. Dropped elements are set to SELU's negative limit, then
    all are mapped by ``a * x + b``. With ``p`` of 1 all become 0, as in torch.

    Klambauer et al., "Self-normalizing neural networks", 2017.

    Args:
        input: any shape, not complex.
        p: probability of an element to be dropped.
        training, inplace, seed, offset, generator: see :func:`dropout`.

    Returns:
        A tensor of the shape, type and layout of ``input``.

    Raises:
        ValueError, RuntimeError: see :func:`dropout`.
    """
    if has_torch_function_unary(input):
        how = {"inplace": inplace, "seed": seed, "offset": offset, "generator": generator}
        return _handed_over(alpha_dropout, (input,), p=p, training=training, **how)  # type: ignore[no-any-return]
    p = _mask.check_p(p)
    if not training or p == 0:
        return input
    return _dropout.drop("alpha_dropout", input, p, input.dim(), inplace, seed, offset, generator)


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Alpha dropout of whole channels; see :func:`alpha_dropout`.

    Args:
        input: shape (N, C, ...), not complex.
        p: probability of a channel to be dropped.
        training, inplace, seed, offset, generator: see :func:`dropout`.

    Returns:
        A tensor of the shape, type and layout of ``input``.

    Raises:
        ValueError, RuntimeError: see :func:`dropout`.
    """
    if has_torch_function_unary(input):
        how = {"inplace": inplace, "seed": seed, "offset": offset, "generator": generator}
        return _handed_over(feature_alpha_dropout, (input,), p=p, training=training, **how)  # type: ignore[no-any-return]
    p = _mask.check_p(p)
    if not training or p == 0:
        return input
    return _dropout.drop(
        "alpha_dropout", input, p, _channels("feature_alpha_dropout", input), inplace, seed, offset, generator
    )


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


def _added(
    rule: str, input: Tensor, residual: Tensor, bias: Tensor | None, p: float, training: bool, **how: Any
) -> Tensor:
    p = _mask.check_p(p)
    if residual.shape != input.shape:
        raise RuntimeError(
            f"{rule}: residual has shape {tuple(residual.shape)}, which differs from the input's {tuple(input.shape)}"
        )
    dtype = torch.promote_types(input.dtype, residual.dtype)
    if bias is not None:
        if bias.shape != input.shape[-1:] or input.dim() == 0:
            raise RuntimeError(
                f"{rule}: bias has shape {tuple(bias.shape)}, expected one element for each of the last dimension of "
                f"the input's {tuple(input.shape)}"
            )
        dtype = torch.promote_types(dtype, bias.dtype)
        bias = bias.to(dtype)
    p = p if training else 0.0
    return _dropout.drop_and_add(rule, input.to(dtype), residual.to(dtype), bias, p, **how)


def dropout_add(
    input: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``residual + dropout(input, p)`` in one pass, rounded once: the end of a transformer's block.

    Args:
        input: any shape.
        residual: the same shape. Where types differ, all are converted as torch promotes them.
        p: probability of an element of ``input`` to be zeroed.
        training: otherwise the sum without dropout is returned.
        seed, offset, generator: see :func:`dropout`.

    Returns:
        A new tensor of the shape and layout of ``input``.

    Raises:
        RuntimeError: shapes differ; see also :func:`dropout`.
        ValueError: see :func:`dropout`.
    """
    how = {"seed": seed, "offset": offset, "generator": generator}
    if has_torch_function((input, residual)):
        return _handed_over(dropout_add, (input, residual), p=p, training=training, **how)  # type: ignore[no-any-return]
    return _added("dropout_add", input, residual, None, p, training, **how)


def bias_dropout_add(
    input: Tensor,
    bias: Tensor,
    residual: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    seed: int | None = None,
    offset: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``residual + dropout(input + bias, p)`` in one pass, rounded once; the backward pass sums the bias's gradient
    on its way.

    Args:
        input: shape (..., H), not complex.
        bias: shape (H,).
        residual: the shape of ``input``. Where types differ, all are converted as torch promotes them.
        p: probability of an element of ``input + bias`` to be zeroed.
        training: otherwise the sum without dropout is returned.
        seed, offset, generator: see :func:`dropout`.

    Returns:
        A new tensor of the shape of ``input``.

    Raises:
        RuntimeError: shapes do not match; see also :func:`dropout`.
        ValueError: see :func:`dropout`.
    """
    how = {"seed": seed, "offset": offset, "generator": generator}
    if has_torch_function((input, bias, residual)):
        return _handed_over(  # type: ignore[no-any-return]
            bias_dropout_add, (input, bias, residual), p=p, training=training, **how
        )
    return _added("bias_dropout_add", input, residual, bias, p, training, **how)


def dropout_mask(shape: int | Sequence[int], p: float, *, seed: int, offset: int = 0, packed: bool = False) -> Tensor:
    """The mask that the functions above apply: what ``seed`` and ``offset`` keep.

    Args:
        shape: of the tensor that is dropped from; of its channels, ``(N, C)``, for channel-wise dropout.
        p: probability of an element to be dropped.
        seed, offset: ints from 0 to 2**64 - 1.
        packed: eight elements to a byte, the first in the lowest bit; unused bits are 0.

    Returns:
        A bool tensor of ``shape``, true where the element is kept; or, ``packed``, a uint8 tensor of
        ``ceil(n / 8)`` bytes for the n elements in C order.

    Raises:
        ValueError: ``shape``, ``p``, ``seed`` or ``offset`` is out of range.
    """
    p = _mask.check_p(p)
    _mask.check_word("seed", seed)
    _mask.check_word("offset", offset)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape has a negative dimension: {shape}")
    n = math.prod(shape)
    out = torch.empty((n + 7) // 8, dtype=torch.uint8) if packed else torch.empty(shape, dtype=torch.bool)
    if n > 0:
        _runtime.kernels.write_mask(out, n, packed, seed, offset, _mask.threshold(p), torch.get_num_threads())
    return out
