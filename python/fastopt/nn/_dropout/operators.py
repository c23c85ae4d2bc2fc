"""The dropout family as operators of torch's dispatcher: for ``torch.compile``, export, ``torch.func``, dispatch modes
and tensor subclasses. Only the operator that draws the seed is random. The others are pure functions of the seed, so
they may be recomputed, split or moved. The seed is a 0-dim int64 tensor. For a CUDA tensor it stays on the device: the
CPU does not wait for it, and graphs draw anew at each replay. The gradients are in ``autograd``.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from ..._compiler import constant, eager
from .._tracing import below_autograd, by_samples, library
from . import mask
from .call import Call, check_type

# `site` tells calls apart, so that no compiler merges two of them.
library.define("draw_seed(int site, *, Device device) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
library.define(
    "dropout(Tensor input, Tensor seed, str rule, float p, int offset, int dims, Tensor? residual, Tensor? bias)"
    " -> Tensor"
)
library.define("dropout_gradients(Tensor grad, Tensor seed, str rule, float p, int offset) -> (Tensor, Tensor)")
library.define("dropout_mask(SymInt[] shape, Tensor seed, float p, int offset, bool packed) -> Tensor")
_ops = torch.ops.fastopt
_CPU = torch.device("cpu")


def place_of_seed(device: torch.device) -> torch.device:
    """Returns where the seed for a tensor on ``device`` lies."""
    return device if device.type == "cuda" else _CPU


class OperatorCall:
    """A ``Call`` whose seed is a tensor, and whose kernel is an operator."""

    __slots__ = ("dims", "offset", "p", "rule", "seed")

    def __init__(self, rule: str, p: float, dims: int, seed: Tensor, offset: int) -> None:
        self.rule, self.p, self.dims, self.seed, self.offset = rule, p, dims, seed, offset

    def gradient(self) -> OperatorCall:
        return OperatorCall(mask.gradient(self.rule), self.p, self.dims, self.seed, self.offset)

    def run(self, input: Tensor, residual: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        with below_autograd():
            return dropout(self, input, residual, bias)

    def sums(self, grad: Tensor, wants_input: bool) -> tuple[Tensor, Tensor]:
        with below_autograd():
            return dropout_gradients(self, grad)


AnyCall: TypeAlias = Call | OperatorCall


def _as_operator(call: AnyCall, device: torch.device) -> OperatorCall:
    if isinstance(call, OperatorCall):
        return call
    seed = call.seed if isinstance(call.seed, Tensor) else as_tensor(call.seed, place_of_seed(device))
    return OperatorCall(call.rule, call.p, call.dims, seed, mask.signed(call.offset))


def dropout(call: AnyCall, input: Tensor, residual: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Runs ``call`` through the dispatcher."""
    of = _as_operator(call, input.device)
    return _ops.dropout(input, of.seed, of.rule, of.p, of.offset, of.dims, residual, bias)


def dropout_gradients(call: AnyCall, grad: Tensor) -> tuple[Tensor, Tensor]:
    of = _as_operator(call, grad.device)
    return _ops.dropout_gradients(grad, of.seed, of.rule, of.p, of.offset)


def dropout_mask(
    shape: tuple[int, ...], p: float, seed: int, offset: int, packed: bool, device: torch.device
) -> Tensor:
    """Makes a mask on ``device`` through the dispatcher; operators know the device by the seed's."""
    return _ops.dropout_mask(shape, as_tensor(seed, device), p, mask.signed(offset), packed)


def as_tensor(seed: int, device: torch.device) -> Tensor:
    return torch.full((), mask.signed(seed), dtype=torch.int64, device=device)


_sites = itertools.count()


@constant
def _site() -> int:
    """Returns another number at each call that is traced."""
    return next(_sites)


def draw_seed(input: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws the seed for a mask of ``input``."""
    if generator is None:
        return _ops.draw_seed(_site(), device=place_of_seed(input.device))
    if not torch.compiler.is_compiling():
        with temporarily_clear_interpreter_stack():  # operators cannot carry a generator, and vmap refuses it
            drawn = mask.draw_seed(input, generator)
        return drawn if isinstance(drawn, Tensor) else as_tensor(drawn, place_of_seed(input.device))
    return torch.empty((), dtype=torch.int64, device=_CPU).random_(generator=generator)


# Kernels. A compiler that meets one under vmap must not trace it.


def _words(seed: Tensor, offset: int) -> tuple[int | Tensor, int]:
    """Returns seed and offset as words; operators carry them as signed numbers. A seed on a GPU stays there."""
    return seed if seed.is_cuda else mask.unsigned(int(seed.item())), mask.unsigned(offset)


@torch.library.impl(library, "draw_seed", "CompositeExplicitAutograd")
def _(site: int, *, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device).random_()


@torch.library.impl(library, "dropout", "CPU")
@torch.library.impl(library, "dropout", "CUDA")
@eager
def _(
    input: Tensor,
    seed: Tensor,
    rule: str,
    p: float,
    offset: int,
    dims: int,
    residual: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    return Call(rule, p, dims, *_words(seed, offset)).run(input, residual, bias)


@torch.library.impl(library, "dropout_gradients", "CPU")
@torch.library.impl(library, "dropout_gradients", "CUDA")
@eager
def _(grad: Tensor, seed: Tensor, rule: str, p: float, offset: int) -> tuple[Tensor | None, Tensor]:
    return Call(rule, p, grad.ndim, *_words(seed, offset)).sums(grad, True)


@torch.library.impl(library, "dropout_mask", "CPU")
@torch.library.impl(library, "dropout_mask", "CUDA")
@eager
def _(shape: list[int], seed: Tensor, p: float, offset: int, packed: bool) -> Tensor:
    return mask.write(tuple(shape), p, *_words(seed, offset), packed, seed.device)


# Results without values, for tools that only need shapes.


@torch.library.register_fake("fastopt::draw_seed")
def _(site: int, *, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


@torch.library.register_fake("fastopt::dropout")
def _(input: Tensor, seed: Tensor, rule: str, p: float, offset: int, dims: int, residual: Any, bias: Any) -> Tensor:
    check_type(rule, input)
    return torch.empty_like(input, memory_format=torch.preserve_format if bias is None else torch.contiguous_format)


@torch.library.register_fake("fastopt::dropout_gradients")
def _(grad: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad, memory_format=torch.contiguous_format), grad.new_empty(grad.shape[-1:])


@torch.library.register_fake("fastopt::dropout_mask")
def _(shape: list[int], seed: Tensor, p: float, offset: int, packed: bool) -> Tensor:
    return mask.empty(tuple(shape), packed, seed.device)


# vmap. torch before 2.5 does the same by itself, and warns.


def _vmap_dropout(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    return torch.stack(by_samples(_ops.dropout, info, in_dims, *args)), 0


def _vmap_gradients(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
    samples = by_samples(_ops.dropout_gradients, info, in_dims, *args)
    return tuple(map(torch.stack, zip(*samples, strict=True))), (0, 0)


if hasattr(torch.library, "register_vmap"):
    torch.library.register_vmap("fastopt::dropout", _vmap_dropout)
    torch.library.register_vmap("fastopt::dropout_gradients", _vmap_gradients)


@torch.library.impl(library, "draw_seed", "FuncTorchVmapMode")
def _(site: int, *, device: torch.device) -> Tensor:
    interpreter = _functorch.peek_interpreter_stack()  # has to live as long as the next line's object
    vmap = _functorch.CVmapInterpreterPtr(interpreter)
    level, samples, randomness = vmap.level(), vmap.batchSize(), vmap.randomness()
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchVmapMode)):
        if randomness == _functorch.RandomnessType.Error:
            raise RuntimeError(
                "vmap: called random operation while in randomness error mode. Please either use the 'same' or "
                "'different' randomness flags on vmap or perform the randomness operation out of vmap"
            )
        if randomness == _functorch.RandomnessType.Same:
            return _ops.draw_seed(site, device=device)
        seeds = torch.stack([_ops.draw_seed(site, device=device) for _ in range(samples)])
        return _functorch._add_batch_dim(seeds, 0, level)
