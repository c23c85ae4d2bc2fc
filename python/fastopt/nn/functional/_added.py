"""Dropout and the additions around it in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from .._dropout import dispatch, mask
from .._dropout.call import check_nested
from ._overrides import handed_over


def _added(
    rule: str, input: Tensor, residual: Tensor, bias: Tensor | None, p: float, training: bool, **how: Any
) -> Tensor:
    p = mask.check(p, **how)
    for name, other in (("residual", residual), ("bias", bias)):
        if other is not None and other.device != input.device:
            raise RuntimeError(f"{rule}: {name} is on {other.device}, but the input on {input.device}")
    check_nested(rule, "input", input)
    check_nested(rule, "residual", residual)
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
    return dispatch.drop_and_add(rule, input.to(dtype), residual.to(dtype), bias, p, **how)


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
    """Computes ``residual + dropout(input, p)`` in one pass, rounded once: the end of a transformer's block.

    Args:
        input: any shape.
        residual: the same shape. Where types differ, all are converted as torch promotes them.
        p: probability of an element of ``input`` to be zeroed.
        training: if False, the sum without dropout is returned.
        seed, offset, generator: see :func:`dropout`.

    Returns:
        A new tensor of the shape and layout of ``input``.

    Raises:
        RuntimeError: shapes differ; see also :func:`dropout`.
        ValueError: see :func:`dropout`.
    """
    how = {"seed": seed, "offset": offset, "generator": generator}
    if has_torch_function((input, residual)):
        return handed_over(dropout_add, (input, residual), p=p, training=training, **how)
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
    """Computes ``residual + dropout(input + bias, p)`` in one pass, rounded once; the backward pass sums the
    gradient of the bias in the same pass.

    Args:
        input: shape (..., H), not complex.
        bias: shape (H,).
        residual: the shape of ``input``. Where types differ, all are converted as torch promotes them.
        p: probability of an element of ``input + bias`` to be zeroed.
        training: if False, the sum without dropout is returned.
        seed, offset, generator: see :func:`dropout`.

    Returns:
        A new tensor of the shape of ``input``.

    Raises:
        RuntimeError: shapes do not match; see also :func:`dropout`.
        ValueError: see :func:`dropout`.
    """
    how = {"seed": seed, "offset": offset, "generator": generator}
    if has_torch_function((input, bias, residual)):
        return handed_over(bias_dropout_add, (input, bias, residual), p=p, training=training, **how)
    return _added("bias_dropout_add", input, residual, bias, p, training, **how)
