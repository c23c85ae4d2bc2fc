"""What tools that take a model apart see of a module of ours: one operation, as they see of torch's own modules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.fx import Proxy


def is_proxy(input: Any) -> bool:
    """Whether ``torch.fx`` is writing down what is done to it."""
    return isinstance(input, Proxy)


def as_call(module: nn.Module, input: Any, *more: Any) -> Any:
    """The node that ``torch.fx`` makes of a module that its tracer does not look into."""
    tracer: Any = input.tracer
    args = (input, *(tensor for tensor in more if tensor is not None))
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, {})


def traced_as_call(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A ``forward`` of one tensor that a tracer does not look into."""

    @functools.wraps(forward)
    def wrapped(self: nn.Module, input: Any) -> Any:
        return as_call(self, input) if is_proxy(input) else forward(self, input)

    return wrapped


def refuse_script(module: nn.Module) -> nn.Module:
    """torch.jit.script asks every module for a form that it can compile, and puts it into the model."""
    raise RuntimeError(
        f"torch.jit.script cannot compile fastopt's {type(module).__name__}: call fastopt.nn.revert(model) first, or "
        "use torch.jit.trace in evaluation, or torch.export"
    )
