"""Tells whether autograd, compilers, transforms or modes have to see an operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._runtime import PLAIN

library = torch.library.Library("fastopt", "FRAGMENT")  # type: ignore[no-untyped-call]

transforms_active = torch._C._are_functorch_transforms_active
# Whether a tensor is a gradient of a backward pass with is_grads_batched.
_is_legacy_batch = torch._C._functorch.is_legacy_batchedtensor


@contextlib.contextmanager
def below_autograd() -> Iterator[None]:
    """A context for what an autograd function's forward calls. It skips autograd of this level and turns autograd of
    the levels of ``torch.func`` below it on again, which torch has turned off as well."""
    with contextlib.ExitStack() as stack:
        if transforms_active():
            stack.enter_context(torch.enable_grad())
            stack.enter_context(forward_ad._set_fwd_grad_enabled(True))
        stack.enter_context(torch._C._AutoDispatchBelowAutograd())
        yield


def requires_grad_tracking(tensor: Tensor) -> bool:
    """Whether autograd, in either direction, may have to track the tensor. Levels of ``torch.func`` do not tell, so
    under them it may."""
    return any_requires_grad_tracking((tensor,))


def any_requires_grad_tracking(tensors: tuple[Tensor | None, ...]) -> bool:
    if forward_ad._current_level >= 0 or transforms_active():
        return True
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def is_differentiated_again(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether several levels of ``torch.func`` differentiate with respect to the tensors, each to some of them."""
    functorch: Any = torch._C._functorch
    levels = set()
    for tensor in tensors:
        while tensor is not None and functorch.is_functorch_wrapped_tensor(tensor):
            if functorch.is_gradtrackingtensor(tensor):
                levels.add(functorch.maybe_get_level(tensor))
            tensor = functorch.get_unwrapped(tensor)
    return len(levels) > 1


def is_traced() -> bool:
    """Whether something other than autograd has to see every operation: a compiler, a transform, a mode, a tracer."""
    return (
        torch.compiler.is_compiling()
        or transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_tracing()
    )


def needs_dispatcher(input: Tensor, *others: Tensor | None) -> bool:
    """Whether a tensor is of a subclass, or ``input`` is on a device without kernels."""
    for tensor in (input, *others):
        if tensor is not None and type(tensor) not in PLAIN:
            return True
    return not (input.is_cpu or input.is_cuda)


def jit_tracing() -> bool:
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def exporting() -> bool:
    """Whether a program is exported, perhaps to a machine without fastopt."""
    return jit_tracing() or (torch.compiler.is_compiling() and _is_exporting())


_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.4 to 2.6 do not tell


def through_operators(tensor: Tensor) -> bool:
    """Whether a gradient has to go through the dispatcher."""
    return type(tensor) not in PLAIN or transforms_active() or _is_legacy_batch(tensor)


def by_samples(operator: Any, info: Any, in_dims: tuple[Any, ...], *args: Any) -> list[Any]:
    """Runs an operator under vmap, sample by sample, so that each has the bits it would have alone."""

    def sample(i: int) -> Any:
        both = zip(args, in_dims, strict=True)  # a list of numbers has a list of dimensions
        return operator(*(arg.select(dim, i) if isinstance(dim, int) else arg for arg, dim in both))

    return [sample(i) for i in range(info.batch_size)]
