"""Alpha dropout."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from .._dropout import dispatch, mask
from ._channels import two_dims
from ._overrides import handed_over


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
        return handed_over(alpha_dropout, (input,), p=p, training=training, **how)
    p = mask.check(p, seed, offset, generator)
    if not training or p == 0:
        return input
    return dispatch.drop("alpha_dropout", input, p, input.dim(), inplace, seed, offset, generator)


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
        return handed_over(feature_alpha_dropout, (input,), p=p, training=training, **how)
    p = mask.check(p, seed, offset, generator)
    if not training or p == 0:
        return input
    return dispatch.drop(
        "alpha_dropout", input, p, two_dims("feature_alpha_dropout", input), inplace, seed, offset, generator
    )
