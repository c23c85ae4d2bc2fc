"""The dropout family as operators of torch's dispatcher: for ``torch.compile``, export, functorch and tensor
subclasses. Drawing is one operator, the only random one; what it draws makes the others pure functions, which
may be recomputed, split or moved. The seed travels as a 0-dim int64 tensor.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from . import mask
from .call import Call, check_type, compute, compute_sums

_library = torch.library.Library("fastopt", "FRAGMENT")
# `site` tells calls apart, so that no compiler takes two of them for one.
_library.define("draw_seed(int site, *, Device device) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_library.define(
    "dropout(Tensor input, Tensor seed, str rule, float p, int offset, int dims, Tensor? residual, "
    "Tensor? bias) -> Tensor"
)
_library.define("dropout_gradients(Tensor grad, Tensor seed, str rule, float p, int offset) -> (Tensor, Tensor)")
_ops = torch.ops.fastopt
_CPU = torch.device("cpu")


def _call(rule: str, p: float, dims: int, seed: Tensor, offset: int) -> Call:
    return Call(rule, p, dims, mask.unsigned(int(seed.item())), mask.unsigned(offset))


@torch.library.impl(_library, "draw_seed", "CompositeExplicitAutograd")
def _draw_seed(site: int, *, device: torch.device) -> Tensor:
    return mask.draw_seed_tensor(None)


@torch.library.impl(_library, "dropout", "CPU")
def _cpu_dropout(
    input: Tensor,
    seed: Tensor,
    rule: str,
    p: float,
    offset: int,
    dims: int,
    residual: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    return compute(_call(rule, p, dims, seed, offset), input, residual, bias)


@torch.library.impl(_library, "dropout_gradients", "CPU")
def _cpu_gradients(grad: Tensor, seed: Tensor, rule: str, p: float, offset: int) -> tuple[Tensor, Tensor]:
    grad_input, grad_bias = compute_sums(_call(rule, p, grad.ndim, seed, offset), grad, True)
    assert grad_input is not None
    return grad_input, grad_bias


@torch.library.register_fake("fastopt::draw_seed")
def _(site: int, *, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


@torch.library.register_fake("fastopt::dropout")
def _(input: Tensor, seed: Tensor, rule: str, *_: Any) -> Tensor:
    check_type(rule, input)
    return torch.empty_like(input)


@torch.library.register_fake("fastopt::dropout_gradients")
def _(grad: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad, memory_format=torch.contiguous_format), grad.new_empty(grad.shape[-1:])


def _keep_seed(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, seed, *ctx.how = inputs
    ctx.save_for_backward(seed)


def _dropout_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (seed,) = ctx.saved_tensors
    rule, p, offset, dims, *_ = ctx.how
    rule = mask.gradient(rule)
    wants_input, *_, wants_residual, wants_bias = ctx.needs_input_grad
    grad_input = grad_bias = None
    if wants_bias:
        grad_input, grad_bias = _ops.dropout_gradients(grad, seed, rule, p, offset)
    elif wants_input:
        grad_input = _ops.dropout(grad, seed, rule, p, offset, dims, None, None)
    return grad_input, None, None, None, None, None, grad if wants_residual else None, grad_bias


def _gradients_backward(ctx: Any, of_input: Tensor, of_bias: Tensor) -> tuple[Tensor | None, ...]:
    (seed,) = ctx.saved_tensors
    rule, p, offset = ctx.how
    of_both = of_input + of_bias
    return _ops.dropout(of_both, seed, rule, p, offset, of_both.ndim, None, None), None, None, None, None


torch.library.register_autograd("fastopt::dropout", _dropout_backward, setup_context=_keep_seed)
torch.library.register_autograd("fastopt::dropout_gradients", _gradients_backward, setup_context=_keep_seed)


def _as_tensor(seed: int) -> Tensor:
    return torch.full((), mask.signed(seed), dtype=torch.int64, device="cpu")


def dropout(call: Call, input: Tensor) -> Tensor:
    """``call``, of a rule without residual and bias."""
    offset = mask.signed(call.offset)
    return _ops.dropout(input, _as_tensor(call.seed), call.rule, call.p, offset, call.dims, None, None)


def drop_and_sum(call: Call, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of input and bias."""
    offset = mask.signed(call.offset)
    return _ops.dropout_gradients(grad, _as_tensor(call.seed), call.rule, call.p, offset)


_sites = itertools.count()


@torch.compiler.assume_constant_result
def _site() -> int:
    """Another number at each call that is traced."""
    return next(_sites)


def draw_and_drop(
    rule: str,
    p: float,
    dims: int,
    seed: int | None,
    offset: int,
    generator: torch.Generator | None,
    input: Tensor,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Draws a seed where none is given, and applies ``rule``."""
    if seed is not None:
        drawn = _as_tensor(seed)
    elif p in (0, 1):
        drawn = _as_tensor(0)
    elif not torch.compiler.is_compiling() and torch._C._is_tracing():
        raise RuntimeError(f"{rule}: torch.jit.trace would freeze the mask; use torch.export, eval() or a seed")
    else:
        drawn = _ops.draw_seed(_site(), device=_CPU) if generator is None else mask.draw_seed_tensor(generator)
    return _ops.dropout(input, drawn, rule, p, mask.signed(offset), dims, residual, bias)
