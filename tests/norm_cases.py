"""RMSNorm, LayerNorm, GroupNorm and InstanceNorm as test data: kinds, shapes around every boundary of the kernels, and
torch's composition of each call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as T
from torch import Tensor

import fastopt.nn.functional as F
from batch_norm_cases import layout_of
from support import HALF, some_values


@dataclass(frozen=True)
class Kind:
    """One of the functions. ``argument`` is what comes after the input: a row's shape or a number of groups."""

    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    has_bias: bool = True

    def argument(self, shape: tuple[int, ...], groups: int) -> tuple[Any, ...]:
        if self.name == "instance_norm":
            return (None, None)
        return (groups,) if self.name == "group_norm" else (shape[-1:],)

    def parameters(self, shape: tuple[int, ...]) -> int:
        return shape[-1] if self.is_rows else shape[1]

    @property
    def is_rows(self) -> bool:
        return self.name in ("rms_norm", "layer_norm")


RMS = Kind("rms_norm", F.rms_norm, T.rms_norm, has_bias=False)
LAYER = Kind("layer_norm", F.layer_norm, T.layer_norm)
GROUP = Kind("group_norm", F.group_norm, T.group_norm)
INSTANCE = Kind("instance_norm", F.instance_norm, T.instance_norm)
KINDS = [RMS, LAYER, GROUP, INSTANCE]

# Rows around vectors, rows of 32 lanes, blocks, flush blocks (4096 elements) and chunks; many rows.
LENGTHS = [1, 2, 15, 16, 17, 31, 32, 33, 257, 1023, 1024, 1025, 4095, 4096, 4097]
ROWS = [*[(3, n) for n in LENGTHS], (1, 70_001), (2, 3, 40), (131, 33), (5000, 3), (300, 260)]
# Shapes and numbers of groups: planes and columns of samples, groups of one channel and of all, several flush blocks.
GROUPS = [
    *[
        ((2, 6), 3),
        ((3, 4, 1), 2),
        ((2, 6, 5), 2),
        ((2, 4, 15), 4),
        ((2, 4, 16), 2),
        ((3, 4, 17), 1),
        ((2, 2, 1025), 2),
    ],
    *[((2, 6, 7, 7), 3), ((1, 64, 5, 5), 8), ((2, 40, 33, 4), 1), ((4, 6, 32, 32), 2), ((2, 3, 4, 5, 6), 3)],
    *[((2, 2, 90, 91), 1), ((1, 1, 30, 30), 1), ((40, 8, 3, 3), 4)],
]
INSTANCES = [((n, c, *rest), c) for (n, c, *rest), _ in GROUPS if torch.Size(rest).numel() > 1]


@dataclass(frozen=True)
class Problem:
    """The operands of one call."""

    kind: Kind
    shape: tuple[int, ...]
    groups: int = 1
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    residual: bool = False
    affine: bool = True
    half_parameters: bool = False
    activation: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def values(self, seed: int, shift: float = 0.0) -> Tensor:
        values = (some_values(self.shape, torch.float64, seed) + shift).to(self.dtype)
        return values.contiguous(memory_format=layout_of(self.shape, self.channels_last))

    def parameter(self, seed: int) -> Tensor:
        dtype = torch.float32 if self.dtype in HALF and not self.half_parameters else self.dtype
        return some_values(self.kind.parameters(self.shape), dtype, seed)

    def leaves(self) -> dict[str, Tensor]:
        leaves = {"input": self.values(1, shift=3.0)}
        if self.affine:
            leaves["weight"] = self.parameter(2)
            if self.kind.has_bias:
                leaves["bias"] = self.parameter(3)
        if self.residual:
            leaves["residual"] = self.values(4)
        return leaves

    def call(self, leaves: dict[str, Tensor]) -> Any:
        """Our result; with a residual the pair of result and sum."""
        input, *rest = self.kind.argument(self.shape, self.groups)
        more = {"residual": leaves["residual"], "return_sum": True} if self.residual else {}
        parameters = {k: v for k, v in leaves.items() if k in ("weight", "bias")}
        options = {"activation": self.activation, **more, **parameters, **self.options}
        return self.kind.ours(leaves["input"], input, *rest, **options)

    def torchs(self, leaves: dict[str, Tensor]) -> Any:
        """The same, composed of torch's operations."""
        options = dict(self.options)
        slope = options.pop("negative_slope", 0.01)
        h = leaves["input"]
        if self.residual:
            h = h + leaves["residual"]
            h = h + (h.to(self.dtype) - h).detach()  # the sum is rounded, also where this computes in float64
        parameters = {k: v for k, v in leaves.items() if k in ("weight", "bias")}
        y = self.kind.theirs(h, *self.kind.argument(self.shape, self.groups), **parameters, **options)
        if self.activation is not None:
            y = getattr(T, self.activation)(y, *([slope] if self.activation == "leaky_relu" else []))
        return (y, h) if self.residual else y

    def plain(self, leaves: dict[str, Tensor]) -> Any:
        """The same in elementary operations, of which all derivatives are right; those of torch's norms are not."""
        h = leaves["input"] + leaves["residual"] if self.residual else leaves["input"]
        groups = h.shape[1] if self.kind is INSTANCE else self.groups
        sets = h if self.kind.is_rows else h.reshape(len(h), groups, h.numel() // (len(h) * groups))
        eps = 1e-5
        if self.kind is RMS:
            eps = torch.finfo(torch.float64).eps
        else:
            sets = sets - sets.mean(-1, keepdim=True)
        z = (sets * torch.rsqrt(sets.square().mean(-1, keepdim=True) + eps)).reshape(h.shape)
        for name, combine in (("weight", torch.mul), ("bias", torch.add)):
            if name in leaves:
                own = leaves[name] if self.kind.is_rows else leaves[name].reshape(-1, *[1] * (h.ndim - 2))
                z = combine(z, own)
        y = z if self.activation is None else getattr(T, self.activation)(z)
        return (y, h) if self.residual else y

    def run(self, call: Callable[[dict[str, Tensor]], Any] | None = None, wide: bool = False) -> dict[str, Tensor]:
        """All results of a forward and a backward pass: ours, or those of ``call``; ``wide`` computes in float64."""
        own = {k: v.double() if wide else v for k, v in self.leaves().items()}
        leaves = {name: leaf.requires_grad_() for name, leaf in own.items()}
        results = (call or self.call)(leaves)
        results = results if isinstance(results, tuple) else (results,)
        grads = [self.values(seed) for seed in range(7, 7 + len(results))]
        found = torch.autograd.grad(results, list(leaves.values()), [g.double() if wide else g for g in grads])
        named = {f"gradient of {name}": grad for name, grad in zip(leaves, found, strict=True)}
        return dict(zip(("result", "sum"), results, strict=False)) | named


def problems(kinds: list[Kind] = KINDS) -> list[Problem]:
    """A problem for each kind and shape."""
    shapes = {"group_norm": GROUPS, "instance_norm": INSTANCES}
    return [Problem(kind, *both) for kind in kinds for both in shapes.get(kind.name, [(shape, 1) for shape in ROWS])]


def small(kind: Kind, **changes: Any) -> Problem:
    """One small problem of a kind."""
    return replace(Problem(kind, (5, 6, 7, 9), 3 if kind is GROUP else 6), **changes)
