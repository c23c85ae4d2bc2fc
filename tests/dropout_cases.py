"""The dropout family as test data: a row per function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import fastopt.nn.functional as F
from fastopt.nn._dropout import mask
from support import DTYPES, some_values


@dataclass(frozen=True)
class Family:
    """A function of the family, called with tensors made for it."""

    name: str
    function: Callable[..., Tensor]
    residual: bool = False
    bias: bool = False
    complex: bool = False
    channels: bool = False  # the mask has the first two dimensions of the shape
    shape: tuple[int, ...] = (5, 70)
    training: bool = True

    def inputs(self, dtype: torch.dtype, shape: tuple[int, ...] | None = None, seed: int = 0) -> list[Tensor]:
        shape = self.shape if shape is None else shape
        found = [some_values(shape, dtype, seed)]
        if self.bias:
            found.append(some_values(shape[-1:], dtype, seed + 1))
        if self.residual:
            found.append(some_values(shape, dtype, seed + 2))
        return found

    def __call__(self, *inputs: Tensor, p: float = 0.3, seed: int | None = 5, **more: Any) -> Tensor:
        return self.function(*inputs, p, self.training, seed=seed, **more)

    def gradients(self, *inputs: Tensor, p: float = 0.3, seed: int = 5) -> list[Tensor]:
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        y = self(*leaves, p=p, seed=seed)
        return list(torch.autograd.grad(y, leaves, some_values(y.shape, y.dtype, 99).to(y.device)))

    def __str__(self) -> str:
        return self.name


FAMILY = [
    Family("dropout", F.dropout, complex=True),
    Family("dropout1d", F.dropout1d, channels=True, complex=True, shape=(5, 7, 9)),
    Family("dropout2d", F.dropout2d, channels=True, complex=True, shape=(5, 7, 3, 4)),
    Family("dropout3d", F.dropout3d, channels=True, complex=True, shape=(5, 7, 2, 3, 4)),
    Family("alpha_dropout", F.alpha_dropout),
    Family("feature_alpha_dropout", F.feature_alpha_dropout, channels=True, shape=(5, 7, 9)),
    Family("drop_connect", F.drop_connect, complex=True),
    Family("dropout_add", F.dropout_add, residual=True, complex=True),
    Family("bias_dropout_add", F.bias_dropout_add, residual=True, bias=True),
]
ONE_TENSOR = [family for family in FAMILY if not family.residual]
IN_PLACE = [family for family in ONE_TENSOR if family.name != "drop_connect"]


def formats(x: Tensor) -> dict[str, Tensor]:
    """The same values in other memory formats."""
    turned = list(range(x.ndim))[::-1]
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 3, dtype=x.dtype)
    sliced = wide[..., 3::2]
    found = {"turned": x.permute(turned).contiguous().permute(turned), "sliced": sliced.copy_(x)}
    if x.ndim in (4, 5):
        last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        found["channels last"] = x.to(memory_format=last)
    for d in range(x.ndim):  # each dimension is innermost once
        found[f"dimension {d} innermost"] = x.movedim(d, -1).contiguous().movedim(-1, d)
    return found


SHAPES = [(2, 64, 16, 17), (3, 130, 7, 7), (2, 3, 33, 40), (1, 5, 300, 1), (2, 65, 2, 3, 50), (300, 300), (4, 1, 6)]


@dataclass(frozen=True)
class KernelCall:
    """A dense tensor with its dimensions in any order, and any mask for it."""

    x: Tensor
    rule: str
    dims: int
    p: float
    seed: int
    offset: int

    def run(self, kernels: Any, threads: int = 1, device: torch.device | str = "cpu") -> Tensor:
        """Calls the backend ``kernels``."""
        kernel, threshold, scalars = mask.constants(self.rule, self.p)
        x = self.x.to(device)
        out = torch.empty_like(x)
        rest = (self.dims, self.seed, self.offset, threshold, scalars, threads)
        assert kernels.drop(kernel, out, x, x, None, *rest)
        return out


@st.composite
def calls(draw: st.DrawFn) -> KernelCall:
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 64, 70, 257]), min_size=0, max_size=5))
    while torch.Size(shape).numel() > 60_000:
        shape.pop()
    order = draw(st.permutations(range(len(shape))))
    dtype = draw(st.sampled_from([*DTYPES, torch.complex64]))
    memory = some_values([shape[d] for d in order], torch.float32, 1).to(dtype)
    return KernelCall(
        x=memory.permute([order.index(d) for d in range(len(order))]),
        rule=draw(st.sampled_from(["dropout", "alpha_dropout", "dropout_add"])),
        dims=draw(st.integers(0, len(shape))),
        p=draw(st.sampled_from([1e-9, 0.2, 1 / 3, 0.5, 0.99, 1.0]) | st.floats(0, 1)),
        seed=draw(st.integers(0, 2**64 - 1)),
        offset=draw(st.integers(0, 2**64 - 1)),
    )
