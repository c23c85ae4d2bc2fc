"""Which tensors the engine takes as they are (``csrc/engine/interop/operands.h``)."""

from __future__ import annotations

import torch
from torch import Tensor


def known(tensor: Tensor) -> bool:
    """Whether the memory holds the values themselves, in a type that the engine takes."""
    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
    plain = tensor.layout == torch.strided and tensor.is_cpu and tensor.dtype in types
    return plain and not (tensor.is_neg() or tensor.is_conj())


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Returns the strides that matter."""
    return tuple(
        stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1 and tensor.numel()
    )


def dense(tensor: Tensor) -> bool:
    """Whether the tensor has no gaps and no shared elements."""
    return strides(torch.empty_like(tensor, device="meta")) == strides(tensor)


def alike(tensor: Tensor | None, like: Tensor) -> bool:
    """Whether the tensor is known and of the type and layout of ``like``, or None."""
    if tensor is None:
        return True
    same = tensor.dtype == like.dtype and tensor.shape == like.shape and strides(tensor) == strides(like)
    return same and known(tensor)


def count(counter: Tensor) -> bool:
    """Leaves counting to torch."""
    return False


def expect_first_write(tensor: Tensor) -> None:
    """Does nothing: the system decides how it gives memory."""
