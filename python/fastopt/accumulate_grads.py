"""Adds up gradients of several backward passes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from . import _runtime
from ._compiler import eager
from .optim._dense import DenseCopies, dense_layout, fits, kind_of, plain
from .optim._update import IDENTITY_PROLOGUE, Update

_ADD = Update("sgd", (), counts=False)  # with a learning rate of -1


@eager
@torch.no_grad()
def accumulate_grads_(sums: Tensor | Iterable[Tensor], grads: Tensor | Iterable[Tensor]) -> None:
    """Adds gradients to sums, in place, for all tensors in one parallel region or launch.

    The point is their types: bfloat16 and float16 gradients are added to float32 sums without a copy, so that small
    ones are not lost in large sums, as they are in ``param.grad``.

    Args:
        sums: float32, float64, bfloat16, float16 or complex tensors of any layout, on the CPU or CUDA devices. Half
            types are added to in float32, and rounded.
        grads: a dense tensor for each of them: of the same shape and device, and of any floating type, or complex where
            the sum is. They stay as they are.

    Raises:
        ValueError: there are more of one than of the other.
        TypeError: an argument is not a tensor.
        RuntimeError: a gradient does not fit its sum, or two tensors share memory. Nothing is written then.

    Examples:
        >>> sums = [torch.zeros_like(p, dtype=torch.float32) for p in model.parameters()]
        >>> for input, target in micro_batches:
        ...     loss_fn(model(input), target).backward()
        ...     fastopt.accumulate_grads_(sums, [p.grad for p in model.parameters()])
        ...     model.zero_grad()
    """
    to, given = _tensors("sums", sums), _tensors("grads", grads)
    if len(to) != len(given):
        raise ValueError(f"accumulate_grads_: {len(to)} sums and {len(given)} grads")
    copies, engine_step = DenseCopies(), _runtime.kernels.Step()
    try:
        engine_step.add_group(_ADD, IDENTITY_PROLOGUE, -1.0, lambda t: {"lr": -1.0}, [], {}, None, None)
        for i, (total, grad) in enumerate(zip(to, given, strict=True)):
            name, of_grad = f"sums[{i}]", f"grads[{i}]"
            own, other = plain(total, name), plain(grad, of_grad)
            if not fits(other, own):
                raise RuntimeError(f"{of_grad} is {kind_of(other)}, {name} {kind_of(own)}")
            layout = dense_layout(own)
            dense = copies.of(own, layout, name, written=True)
            addend = copies.of(other, layout, of_grad, written=False)
            if not engine_step.add_prepared(i, total, dense, addend, (), None, (), 1, None):
                raise RuntimeError(f"{name}: its memory cannot be reached ({type(total).__name__})")
        conflict = engine_step.check_overlap_and_bump_versions()
        if conflict is not None:
            one, _, two, _ = conflict
            pair = sorted(next(i for i, total in enumerate(to) if total is tensor) for tensor in (one, two))
            raise RuntimeError(f"sums[{pair[0]}] or its gradient shares memory with sums[{pair[1]}] or its gradient")
        engine_step.run(torch.get_num_threads())
    finally:
        engine_step.clear()
    copies.write_back()


def _tensors(what: str, given: Tensor | Iterable[Tensor]) -> list[Tensor]:
    tensors = [given] if isinstance(given, Tensor) else list(given)
    for i, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"accumulate_grads_: {what}[{i}] is a {type(tensor).__name__}, not a tensor")
    return tensors
