"""What ``torch.compile`` is to make of functions of ours.

torch.compiler's decorators import the whole compiler, which takes a second. These leave that to whoever compiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
_is_compiling = torch.compiler.is_compiling


def constant(function: Function) -> Function:
    """``torch.compiler.assume_constant_result``: called while the program is traced, and its result is part of it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def eager(function: Function) -> Function:
    """``torch.compiler.disable``: a graph break, called as it is."""
    disabled = torch._disable_dynamo(function)  # type: ignore[attr-defined]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return disabled(*args, **kwargs) if _is_compiling() else function(*args, **kwargs)

    return cast(Function, call)
