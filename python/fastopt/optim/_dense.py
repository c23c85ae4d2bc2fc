"""Dense tensors for the engine: a tensor that is not dense gets a copy, which is written back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import _runtime
from ._layout import overlaps_itself, same_layout
from ._sharded import local, sharded_dims_of, write_local_shard

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
_REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_MANY = 2**20  # from so many elements on it pays to choose how memory is taken


def plain(tensor: Tensor, name: object, types: tuple[torch.dtype, ...] = TYPES) -> Tensor:
    """Returns the torch.Tensor that owns the memory, or raises an error that calls it ``name``."""
    tensor = local(tensor)
    kind = type(tensor)
    if not issubclass(kind, Tensor) or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise TypeError(f"{name} is a {kind.__name__}, whose memory fastopt cannot update")
    if kind not in _runtime.PLAIN:
        tensor = tensor.as_subclass(Tensor)
    if tensor.layout != torch.strided:
        raise RuntimeError(f"{name} has layout {tensor.layout}; fastopt updates strided tensors")
    if why := _runtime.unsupported_reason(tensor.device):
        raise RuntimeError(f"{name} is on device '{tensor.device}'; {why}")
    _runtime.refuse_freed(tensor, name)
    if tensor.dtype not in types:
        raise RuntimeError(f"{name} has dtype {tensor.dtype}; fastopt updates {', '.join(map(str, types))}")
    return tensor


def kind_of(tensor: Tensor) -> str:
    """Describes a tensor for error messages."""
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"


def fits(grad: Tensor, param: Tensor) -> bool:
    """Whether the engine can take ``grad`` as the gradient of ``param``: real numbers may be of any types."""
    alike = grad.dtype == param.dtype or (grad.dtype in _REAL and param.dtype in _REAL)
    return alike and grad.shape == param.shape and grad.device == param.device


def lies_like(tensor: Tensor, layout: Tensor) -> bool:
    """Whether element i of the tensor's memory is its value at element i of ``layout``."""
    return same_layout(tensor, layout) and not tensor.is_neg() and not tensor.is_conj()


def copy_like(tensor: Tensor, layout: Tensor) -> Tensor:
    like = torch.empty_strided(layout.size(), layout.stride(), dtype=tensor.dtype, device=tensor.device)
    return like.copy_(tensor)


def zeros_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Makes zeros with the layout of the tensor."""
    if tensor.numel() < _MANY:
        return torch.zeros_like(tensor, dtype=dtype)
    zeros = torch.empty_like(tensor, dtype=dtype)
    _runtime.kernels.expect_first_write(zeros)
    return zeros.zero_()


def dense_layout(tensor: Tensor, contiguous: bool = False) -> Tensor:
    """Returns a tensor with dense strides: the given one if it is contiguous, otherwise one without memory, which has
    the given one's strides if they are dense."""
    if tensor.is_contiguous():
        return tensor
    memory_format = torch.contiguous_format if contiguous else torch.preserve_format
    return torch.empty_like(tensor, memory_format=memory_format, device="meta")


def refuse_overlap(tensor: Tensor, name: object) -> None:
    """Refuses a tensor that is to be written and has two elements in one place."""
    if overlaps_itself(tensor):
        raise RuntimeError(
            f"{name} is an expanded or overlapping tensor (strides {tensor.stride()}): more than one "
            "element refers to a single memory location; clone() it first"
        )


def norm_tensor(norm: float | Tensor, tensors: list[Tensor]) -> Tensor:
    """Returns a norm as a tensor on the device of ``tensors``: float64 where one of them is, otherwise float32."""
    wide = any(t.dtype in (torch.float64, torch.complex128) for t in tensors)
    dtype = torch.float64 if wide else torch.float32
    if isinstance(norm, Tensor):
        return norm.to(dtype)
    return torch.tensor(norm, dtype=dtype, device=tensors[0].device if tensors else "cpu")


class DenseCopies:
    """The copies of one step."""

    def __init__(self) -> None:
        self._afterwards: list[Callable[[], object]] = []

    def of(self, tensor: Tensor, layout: Tensor, name: object, *, written: bool) -> Tensor:
        """Returns the tensor itself where it lies in memory as ``layout`` does, otherwise a copy that does."""
        if written:
            refuse_overlap(tensor, name)
        if lies_like(tensor, layout):
            return tensor
        copy = copy_like(tensor, layout)
        if written:
            self.afterwards(lambda: tensor.copy_(copy))
        return copy

    def whole(self, tensor: Tensor, *, written: bool) -> Tensor:
        """Puts a DTensor's parts together. If the whole is written, each process keeps its own part of it."""
        if sharded_dims_of(tensor) is None:
            return tensor
        sent = tensor.int() if tensor.dtype == torch.int16 else tensor  # gloo sends no int16
        whole: Tensor = sent.full_tensor().to(tensor.dtype)  # type: ignore[attr-defined]
        if written:
            self.afterwards(lambda: write_local_shard(tensor, whole))
        return whole

    def afterwards(self, write: Callable[[], object]) -> None:
        """Calls ``write`` after the kernels have run."""
        self._afterwards.append(write)

    @torch.no_grad()
    def write_back(self) -> None:
        for write in self._afterwards:
            write()
        self._afterwards.clear()
