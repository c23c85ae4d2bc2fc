"""Lets tools that trace a model see a module of ours as one operation, as they see torch's own modules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Proxy


def is_proxy(input: Any) -> bool:
    """Whether ``input`` stands for a tensor in a trace of ``torch.fx``."""
    return isinstance(input, Proxy)


def as_call(module: nn.Module, input: Any, *more: Any, **options: Any) -> Any:
    """Makes the node that ``torch.fx`` makes of a module that its tracer does not enter."""
    tracer: Any = input.tracer
    args = (input, *(tensor for tensor in more if tensor is not None))
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, options)


def traced_as_call(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps a tracer out of a ``forward`` of one tensor."""

    @functools.wraps(forward)
    def wrapped(self: nn.Module, input: Any) -> Any:
        return as_call(self, input) if is_proxy(input) else forward(self, input)

    return wrapped


def refuse_script(module: nn.Module) -> nn.Module:
    """Raises an error when torch.jit.script asks a module for a form that it can compile."""
    raise RuntimeError(
        f"torch.jit.script cannot compile fastopt's {type(module).__name__}: call fastopt.nn.revert(model) first, or "
        "use torch.jit.trace in evaluation, or torch.export"
    )
