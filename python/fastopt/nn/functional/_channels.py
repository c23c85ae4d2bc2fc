"""Dropout of whole channels."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from .._dropout import dispatch, mask
from ._overrides import handed_over

_NO_CHANNELS = "{}: Feature dropout requires at least 2 dimensions in the input"


def two_dims(name: str, input: Tensor) -> int:
    if input.dim() < 2:
        raise RuntimeError(_NO_CHANNELS.format(name))
    return 2


def _warn_of_dims(name: str, spatial: int, expected: str, input: Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    warnings.warn(
        f"{name}: Received a {input.dim()}-D input to {name}, which is deprecated and will result in an error in a "
        "future release. To retain the behavior and silence this warning, please use dropout instead. Note that "
        f"{name} exists to provide channel-wise dropout on inputs with {spatial} spatial dimensions, a channel "
        f"dimension, and an optional batch dimension (i.e. {expected} inputs).",
        stacklevel=3,
    )


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
        return handed_over(dropout1d, (input,), p=p, training=training, **how)
    p = mask.check(p, seed, offset, generator)
    if input.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input. Note that dropout1d exists to "
            "provide channel-wise dropout on inputs with 1 spatial dimension, a channel dimension, and an optional "
            "batch dimension (i.e. 2D or 3D inputs)."
        )
    if not training or p == 0:
        return input
    return dispatch.drop("dropout", input, p, input.dim() - 1, inplace, seed, offset, generator)


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

    As in torch, the first two dimensions are N and C for any number of dimensions, with a warning where it is not 4.

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
        return handed_over(dropout2d, (input,), p=p, training=training, **how)
    p = mask.check(p, seed, offset, generator)
    if input.dim() not in (3, 4):
        _warn_of_dims("dropout2d", 2, "3D or 4D", input)
    if input.dim() == 3 and not torch.compiler.is_compiling():
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout behavior is "
            "desired - input is interpreted as shape (N, C, L), where C is the channel dim. To silence this warning, "
            "please use dropout1d instead.",
            stacklevel=2,
        )
    if not training or p == 0:
        return input
    return dispatch.drop("dropout", input, p, two_dims("dropout2d", input), inplace, seed, offset, generator)


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
        return handed_over(dropout3d, (input,), p=p, training=training, **how)
    p = mask.check(p, seed, offset, generator)
    if input.dim() not in (4, 5):
        _warn_of_dims("dropout3d", 3, "4D or 5D", input)
    batched = input.dim() == 5
    if input.dim() == 0:
        raise RuntimeError(_NO_CHANNELS.format("dropout3d"))
    if not training or p == 0:
        return input
    return dispatch.drop("dropout", input, p, 2 if batched else 1, inplace, seed, offset, generator)
